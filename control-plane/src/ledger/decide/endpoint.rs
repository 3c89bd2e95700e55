//! Where a node says it receives: checked against the network, the pools, and all other nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::InvalidValue;
use loden_proto::model::{
    Backend, Endpoint, LeaseName, Network, Receiver, RoutedReceiver, UdpReceiver, Vni, VxlanReceiver,
    check_underlay,
};

use crate::ledger::Ledger;
use crate::ledger::command::Defaults;
use crate::ledger::network::NetworkLedger;
use crate::ledger::refusal::{Named, Refusal};

/// A MAC or underlay address that another node's active lease has.
pub(super) struct Clash {
    pub(super) field: String,
    pub(super) value: String,
    pub(super) owner: LeaseName,
    pub(super) within: &'static str,
}

impl From<Clash> for Refusal {
    fn from(clash: Clash) -> Self {
        let Clash { field, value, owner, within } = clash;
        Self::Taken { field, value, owner: Named::Lease(owner), within }
    }
}

/// Checks what needs no other node: addresses that peers can send to, receivers that are the network's.
pub(super) fn check(endpoint: &Endpoint, network: &Network, defaults: &Defaults) -> Result<(), InvalidValue> {
    if endpoint.addresses().next().is_none() {
        return Err(
            InvalidValue::new("", "an IPv4 or IPv6 underlay address is required").at("endpoint.address_v4")
        );
    }
    for address in endpoint.addresses() {
        let rule = check_underlay(address).or_else(|| {
            let refused = address.is_loopback() && !defaults.allow_loopback;
            refused.then_some("is a loopback address; the server's configuration does not allow them")
        });
        if let Some(rule) = rule {
            return Err(InvalidValue::new(address, rule).at(field_of(address)));
        }
    }
    for (index, receiver) in endpoint.receivers.iter().enumerate() {
        let checked = match receiver {
            Receiver::Vxlan(vtep) => check_vtep(vtep, network),
            Receiver::Routed(routed) => check_routed(*routed, network),
            Receiver::Udp(udp) => check_udp(udp, network),
        };
        let checked = checked.and_then(|()| check_family(index, receiver, endpoint));
        checked.map_err(|invalid| invalid.at(receiver.kind()).at(format!("endpoint.receivers[{index}]")))?;
    }
    Ok(())
}

/// Peers choose by kind and family.
fn check_family(index: usize, receiver: &Receiver, endpoint: &Endpoint) -> Result<(), InvalidValue> {
    let (family, kind) = (receiver.family(), receiver.kind());
    if endpoint.address(family).is_none() {
        let rule = format!("needs an {family} underlay address in the endpoint");
        return Err(InvalidValue::new(family, rule).at("family"));
    }
    let alike = |other: &Receiver| other.family() == family && other.kind() == kind;
    if endpoint.receivers[..index].iter().any(alike) {
        let rule = format!("is that of another receiver of the kind {kind}; one per family");
        return Err(InvalidValue::new(family, rule).at("family"));
    }
    Ok(())
}

/// Of VXLAN also where nothing is routed directly: whoever has not heard of that yet still offers it, and
/// nobody uses it.
fn check_routed(routed: RoutedReceiver, network: &Network) -> Result<(), InvalidValue> {
    if matches!(network.backend, Backend::Alloc | Backend::Udp(_)) {
        let rule = format!("is not taken: nothing is routed directly in the network {}", network.id);
        return Err(InvalidValue::new(routed.family, rule).at("family"));
    }
    Ok(())
}

fn check_vtep(vtep: &VxlanReceiver, network: &Network) -> Result<(), InvalidValue> {
    let Backend::Vxlan(vxlan) = network.backend else {
        let rule = format!("is not taken: the backend of the network {} is not VXLAN", network.id);
        return Err(InvalidValue::new(vtep.mac, rule).at("mac"));
    };
    check_vni(vtep.vni, network)?;
    if vtep.port != vxlan.port {
        let rule = format!("must be {}, the UDP port of the network {}", vxlan.port, network.id);
        return Err(InvalidValue::new(vtep.port, rule).at("port"));
    }
    if vtep.gbp != vxlan.gbp {
        let rule = format!("must be {}, as in the network {}", vxlan.gbp, network.id);
        return Err(InvalidValue::new(vtep.gbp, rule).at("gbp"));
    }
    Ok(())
}

/// Its port is the node's own choice.
fn check_udp(udp: &UdpReceiver, network: &Network) -> Result<(), InvalidValue> {
    if !matches!(network.backend, Backend::Udp(_)) {
        let rule = format!("is not taken: the backend of the network {} is {}", network.id, network.backend);
        return Err(InvalidValue::new(udp.port, rule).at("port"));
    }
    check_vni(udp.vni, network)
}

fn check_vni(vni: Vni, network: &Network) -> Result<(), InvalidValue> {
    if vni != network.vni {
        let rule = format!("must be {}, the VNI of the network {}", network.vni, network.id);
        return Err(InvalidValue::new(vni, rule).at("vni"));
    }
    Ok(())
}

const fn field_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "endpoint.address_v4",
        IpAddr::V6(_) => "endpoint.address_v6",
    }
}

/// No pool of the network may overlap what the host reaches outside of it.
pub(super) fn check_prefixes(underlay: &[IpNet], network: &Network, name: &LeaseName) -> Result<(), Refusal> {
    for (index, prefix) in underlay.iter().enumerate() {
        if let Some(pool) = network.pools.iter().find(|pool| pool.overlaps(*prefix)) {
            return Err(Refusal::OverlapsUnderlay {
                field: format!("underlay_prefixes[{index}]"),
                pool: pool.cidr(),
                network: network.id.clone(),
                underlay: format!("prefix {prefix}"),
                node: name.node.clone(),
            });
        }
    }
    Ok(())
}

impl Ledger {
    /// No pool of any network may contain the host's own underlay address.
    pub(super) fn check_overlap(&self, endpoint: &Endpoint, name: &LeaseName) -> Result<(), Refusal> {
        for address in endpoint.addresses() {
            let below = self.pools.range(..=address).next_back();
            if let Some((_, (pool, network))) = below.filter(|(_, (pool, _))| pool.contains(&address)) {
                return Err(Refusal::OverlapsUnderlay {
                    field: field_of(address).to_owned(),
                    pool: *pool,
                    network: network.clone(),
                    underlay: format!("address {address}"),
                    node: name.node.clone(),
                });
            }
        }
        Ok(())
    }

    /// Everything of the endpoint that another node's active lease has: underlay addresses in any
    /// network, MAC addresses in this one.
    pub(super) fn clashes(&self, entry: &NetworkLedger, endpoint: &Endpoint, name: &LeaseName) -> Vec<Clash> {
        let mut clashes = Vec::new();
        for address in endpoint.addresses() {
            let others = self.addresses.get(&address).into_iter().flatten();
            clashes.extend(others.filter(|other| other.node != name.node).map(|other| Clash {
                field: field_of(address).to_owned(),
                value: address.to_string(),
                owner: other.clone(),
                within: "cluster",
            }));
        }
        for (index, receiver) in endpoint.receivers.iter().enumerate() {
            let Receiver::Vxlan(vtep) = receiver else { continue };
            let others = entry.macs.get(&vtep.mac).into_iter().flatten();
            clashes.extend(others.filter(|other| **other != name.node).map(|other| Clash {
                field: format!("endpoint.receivers[{index}].vxlan.mac"),
                value: vtep.mac.to_string(),
                owner: entry.name(other),
                within: "network",
            }));
        }
        clashes
    }
}
