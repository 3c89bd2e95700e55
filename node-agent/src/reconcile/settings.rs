//! Devices and settings of the host that decide whether the network's packets pass it. They are the
//! host's own: what is wrong is told, not changed.

use std::net::SocketAddr;

use loden_datapath::tables::Device;
use loden_datapath::{Datapath, DeviceName, Host, HostFacts, Tables};
use loden_proto::model::{Backend, Family, Network};

use super::{Reconcile, friction};
use crate::iface::Choice;
use crate::state::Held;
use crate::status::Devices;

impl<D: Datapath + Host> Reconcile<D> {
    /// The devices that the network's packets pass.
    pub(super) fn devices(&self) -> Devices {
        let (Some(desired), Some((held, network))) = (self.program.desired(), &self.lease) else {
            return Devices::default();
        };
        let tables = desired.tables();
        let tunnels: Vec<_> = tables.devices.keys().copied().collect();
        let lower = self.choice.as_ref().map(|choice| choice.device);
        let link = lower.filter(|_| network.backend.is_routed());
        let links = in_use(tunnels.iter().copied().chain(link).collect(), tables);
        let tunnels = in_use(tunnels, tables);
        Devices {
            pods: pods(&self.facts, held).map(|device| device.to_string()).collect(),
            links: links.iter().map(ToString::to_string).collect(),
            lower: lower.map(|device| device.to_string()).into_iter().collect(),
            families: tunnels.iter().flat_map(|name| underlays(tables, *name)).collect(),
        }
    }

    /// What of the host's settings is in the way. Where nothing is programmed, nobody here knows how packets go.
    pub(super) fn warnings(&self) -> Vec<String> {
        let (Some((held, network)), Some(choice)) = (&self.lease, &self.choice) else { return Vec::new() };
        let mut told: Vec<_> = self.without_v6().into_iter().collect();
        told.extend(narrow(network, choice, self.mtu()));
        if network.backend == Backend::Alloc {
            return told;
        }
        told.extend(warnings(&self.facts, choice, held, network));
        if let Some(desired) = self.program.desired() {
            told.extend(friction::warnings(&self.facts, choice, desired.tables()));
        }
        told.extend(self.tunnels.warnings(network.backend));
        told
    }
}

/// The families of the underlay that a tunnel receives over.
fn underlays(tables: &Tables, tunnel: DeviceName) -> Vec<Family> {
    let vxlan = tables.devices.get(&tunnel).and_then(Device::vxlan).map(|vxlan| vxlan.local);
    let listening = tables.listening.get(&tunnel).map(|listening| &listening.locals);
    let udp = listening.into_iter().flatten().map(SocketAddr::ip);
    vxlan.into_iter().chain(udp).map(Family::of).collect()
}

/// More than the interface leaves was asked for; `mtu` is what pods are told, 0 while nothing is programmed.
fn narrow(network: &Network, choice: &Choice, mtu: u32) -> Option<String> {
    let wanted = network.mtu?.get();
    let Choice { device, mtu: below, .. } = choice;
    (mtu > 0 && mtu < wanted).then(|| {
        format!(
            "the network's MTU is {wanted}, and {device}, whose MTU is {below}, leaves {mtu}: pods are told {mtu}; raise \
             the MTU of {device}, or lower the network's"
        )
    })
}

/// Those of the devices that routes lead over; all of them while there are none.
fn in_use(devices: Vec<DeviceName>, tables: &Tables) -> Vec<DeviceName> {
    let is_used = |device: &DeviceName| tables.routes.values().any(|route| route.device == *device);
    let used: Vec<_> = devices.iter().copied().filter(is_used).collect();
    if used.is_empty() { devices } else { used }
}

/// The devices, not ours, that have an address of the node's own subnets: the pods' bridge.
pub(super) fn pods(facts: &HostFacts, held: &Held) -> impl Iterator<Item = DeviceName> {
    let own = |address: &ipnet::IpNet| held.subnets.iter().any(|subnet| subnet.contains(&address.addr()));
    let interfaces = facts.interfaces.iter().filter(|interface| !interface.ours);
    let behind =
        interfaces.filter(move |interface| interface.addresses.iter().any(|address| own(&address.net)));
    behind.map(|interface| interface.name)
}

fn warnings(facts: &HostFacts, choice: &Choice, held: &Held, network: &Network) -> Vec<String> {
    let mut warnings = Vec::new();
    for family in network.families().into_iter().filter(|family| !facts.forwards.contains(family)) {
        let setting = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        warnings.push(format!(
            "{setting} is 0: this host does not forward the pods' {family} packets; set it to 1"
        ));
    }
    if facts.forwards.contains(&Family::V4) && network.families().contains(&Family::V4) {
        warnings.extend(deaf(facts, choice, held, network));
    }
    let strict = facts.interface(choice.device).is_some_and(|nic| nic.strict);
    if strict && network.backend.is_routed() {
        let device = choice.device;
        let follows = match network.backend {
            Backend::HostGw => "packets whose way back leads elsewhere are dropped",
            Backend::Vxlan(_) | Backend::Alloc | Backend::Udp(_) => {
                "others send to this node through the tunnel only"
            }
        };
        warnings.push(format!("net.ipv4.conf.{device}.rp_filter is 1 (strict): {follows}; set it to 2"));
    }
    if facts.interface(choice.device).is_some_and(|nic| !nic.running) {
        warnings.push(format!("{} has no carrier: what is sent over it is lost", choice.device));
    }
    warnings
}

/// Devices by which packets come that are not sent on, on a host that forwards.
fn deaf(facts: &HostFacts, choice: &Choice, held: &Held, network: &Network) -> Vec<String> {
    let pods = pods(facts, held).map(|name| (name, "what its pods send"));
    let link = network.backend.is_routed().then_some(choice.device);
    let link = link.map(|name| (name, "what other nodes send to pods here"));
    let is_deaf = |name: DeviceName| facts.interface(name).is_some_and(|nic| !nic.forwards);
    let told = pods.chain(link).filter(|(name, _)| is_deaf(*name));
    told.map(|(name, what)| {
        format!("net.ipv4.conf.{name}.forwarding is 0: {what} is not forwarded; set it to 1")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use loden_datapath::Interface;
    use loden_datapath::tables::{Route, RouteKey};
    use loden_proto::model::{Epoch, Pool, VxlanBackend};

    use super::*;
    use crate::iface::{Known, Selection, choose};
    use crate::testing::{facts, network, peer};

    fn told(facts: &HostFacts, network: &Network) -> Vec<String> {
        let choice = choose(&Selection::default(), facts, Known::default()).unwrap();
        warnings(facts, &choice, &held(), network)
    }

    fn held() -> Held {
        Held { subnets: peer(9).subnets, epoch: Epoch(1) }
    }

    fn with_bridge(forwards: bool) -> HostFacts {
        let mut host = facts("192.0.2.9");
        let bridge = facts("10.244.9.1").interfaces.remove(0);
        host.interfaces.push(Interface { name: "cni0".parse().unwrap(), forwards, ..bridge });
        host
    }

    #[test]
    fn a_device_that_does_not_forward_is_told_where_packets_come_by_it() {
        let mut network = network();
        assert_eq!(told(&with_bridge(true), &network), Vec::<String>::new());
        let mut host = with_bridge(false);
        let pods = "net.ipv4.conf.cni0.forwarding is 0: what its pods send is not forwarded; set it to 1";
        assert_eq!(told(&host, &network), [pods]);
        host.interfaces[0].forwards = false;
        assert_eq!(told(&host, &network), [pods], "what comes through the tunnel comes by the tunnel");
        network.backend = Backend::HostGw;
        let link = "net.ipv4.conf.eth0.forwarding is 0: what other nodes send to pods here is not forwarded; \
                    set it to 1";
        assert_eq!(told(&host, &network), [pods, link]);
        host.forwards = vec![Family::V6];
        assert_eq!(told(&host, &network).len(), 1, "the host as a whole does not");
        host.forwards.push(Family::V4);
        network.pools = vec![Pool::new("fd00::/48".parse().unwrap(), None).unwrap()];
        assert_eq!(told(&host, &network), Vec::<String>::new(), "IPv6 has no such setting");
    }

    #[test]
    fn an_mtu_that_the_interface_does_not_leave_is_told() {
        let choice = choose(&Selection::default(), &facts("192.0.2.9"), Known::default()).unwrap();
        let mut network = network();
        assert_eq!(narrow(&network, &choice, 1450), None, "nobody asked for one");
        network.mtu = Some(9000.try_into().unwrap());
        let expected = "the network's MTU is 9000, and eth0, whose MTU is 1500, leaves 1450: pods are told 1450; \
                        raise the MTU of eth0, or lower the network's";
        assert_eq!(narrow(&network, &choice, 1450).as_deref(), Some(expected));
        assert_eq!(narrow(&network, &choice, 9000), None);
        assert_eq!(narrow(&network, &choice, 0), None, "nothing is programmed");
    }

    #[test]
    fn a_tunnel_that_no_peer_is_behind_is_not_in_use() {
        let both: Vec<DeviceName> = ["loden1a", "loden1b"].map(|name| name.parse().unwrap()).into();
        let mut tables = Tables::default();
        assert_eq!(in_use(both.clone(), &tables), both, "nobody knows yet");
        let key = RouteKey { prefix: "10.244.1.0/24".parse().unwrap(), metric: 1 };
        let gateway = "10.244.1.0".parse().ok();
        tables.routes.insert(key, Route { device: both[0], gateway, onlink: true, mtu: None });
        assert_eq!(in_use(both.clone(), &tables), both[..1]);
    }

    #[test]
    fn forwarding_that_is_off_is_told_per_family_of_the_pools() {
        let mut network = network();
        let mut host = facts("192.0.2.9");
        assert_eq!(told(&host, &network), Vec::<String>::new());
        host.forwards = vec![Family::V4];
        assert_eq!(told(&host, &network), Vec::<String>::new());
        network.pools.push(Pool::new("fd00::/48".parse().unwrap(), None).unwrap());
        let text = told(&host, &network).join("");
        assert!(text.starts_with("net.ipv6.conf.all.forwarding is 0: this host does not"), "{text}");
        host.forwards.clear();
        assert_eq!(told(&host, &network).len(), 2);
    }

    #[test]
    fn a_strict_reverse_path_filter_is_told_where_next_hops_are_used() {
        let mut network = network();
        let mut host = facts("192.0.2.9");
        host.interfaces[0].strict = true;
        assert_eq!(told(&host, &network), Vec::<String>::new());
        network.backend = Backend::Vxlan(VxlanBackend { direct_routing: true, ..VxlanBackend::default() });
        let text = told(&host, &network).join("");
        assert!(text.contains("net.ipv4.conf.eth0.rp_filter is 1 (strict): others send"), "{text}");
        network.backend = Backend::HostGw;
        assert!(told(&host, &network).join("").contains("way back leads elsewhere"));
    }

    #[test]
    fn an_interface_without_a_carrier_is_told() {
        let mut host = facts("192.0.2.9");
        host.interfaces[0].running = false;
        assert_eq!(told(&host, &network()), ["eth0 has no carrier: what is sent over it is lost"]);
    }

    #[test]
    fn pods_are_behind_what_has_an_address_of_their_subnet() {
        assert_eq!(pods(&facts("192.0.2.9"), &held()).count(), 0);
        let mut host = with_bridge(true);
        let ours = Interface { ours: true, name: "loden1a".parse().unwrap(), ..host.interfaces[1].clone() };
        host.interfaces.push(ours);
        assert_eq!(pods(&host, &held()).collect::<Vec<_>>(), ["cni0".parse().unwrap()]);
    }
}
