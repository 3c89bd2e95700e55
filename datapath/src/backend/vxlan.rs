//! VXLAN (RFC 7348): one device per underlay family, and per peer a forwarding
//! database entry, neighbours and routes.
//!
//! ```text
//!  10.244.2.0/24 ──route──▶ 10.244.2.0 ──neighbour──▶ 02:… ──FDB──▶ 192.0.2.9
//!  2001:db8:2::/64 ──route──▶ fe80::…  ──neighbour──▶ 02:…
//! ```
//!
//! IPv4 in flannel's shape: the gateway is the base address of the subnet, on
//! the link. IPv6 goes via the link-local address made from the peer's MAC: it
//! needs no `onlink`, which the kernel would check against the main table.

use std::iter;
use std::net::IpAddr;

use loden_proto::model::{Family, Network, Peer, Receiver, Vni, VxlanBackend, VxlanReceiver};

use super::{
    Entries, Me, Reason, Underlay, device, list, longest, of_no_use, prefer_reachable, routed, tunnel_mtu,
};
use crate::tables::{FdbEntry, FdbKey, Kind, NeighbourKey, Route, Tables, Vxlan};

/// MTU of the tunnels in bytes. Over either family the same, which is what pods
/// are told: a host that tracks connections puts their fragments together and
/// cuts them again for the tunnel, and longer ones would not get to a pod.
pub(super) fn mtu(network: &Network, underlay: &Underlay) -> u32 {
    tunnel_mtu(network, underlay, Family::vxlan_overhead)
}

pub(super) fn own_tables(network: &Network, backend: VxlanBackend, me: &Me) -> Tables {
    let mut tables = Tables::default();
    for local in me.underlay.addresses() {
        let family = Family::of(local);
        let instance = match family {
            Family::V4 => "vxlan-ipv4",
            Family::V6 => "vxlan-ipv6",
        };
        let kind = Kind::Vxlan(Vxlan {
            vni: network.vni,
            port: backend.port,
            local,
            lower: Some(me.underlay.lower),
            mac: me.mac,
            learning: backend.learning,
            gbp: backend.gbp,
        });
        let name = device::of_vxlan(network.vni, family);
        tables.extend(device::tables(network, me, name, instance, kind, mtu(network, &me.underlay)));
    }
    tables
}

pub(super) fn peer_tables(network: &Network, backend: VxlanBackend, me: &Me, peer: &Peer) -> Entries {
    let mut entries = match choose(network, backend, me, peer) {
        Ok((receiver, destination, lacking)) => {
            Entries { tables: tunnel(network, backend, me, peer, receiver, destination), lacking }
        }
        Err(reason) => Entries::lacking(reason),
    };
    if backend.direct_routing {
        // The tunnel's other entries stay, so that a move is one route replaced.
        let mut direct = 0;
        for prefix in me.usable(&peer.subnets) {
            if let Ok((link, gateway)) = routed::next_hop(me, peer, prefix)
                && !me.underlay.unanswered.contains(&gateway)
            {
                let theirs = peer.endpoint.receivers.iter().map(Receiver::mtu);
                let mtu = longest(mtu(network, &me.underlay), theirs, link.mtu);
                entries.tables.routes.insert(routed::key(prefix), routed::route(link, gateway, mtu));
                direct += 1;
            }
        }
        entries.lacking = entries.lacking.filter(|_| direct < me.usable(&peer.subnets).count());
    }
    entries
}

/// The entries of a peer behind the tunnel.
fn tunnel(
    network: &Network,
    backend: VxlanBackend,
    me: &Me,
    peer: &Peer,
    receiver: &VxlanReceiver,
    destination: IpAddr,
) -> Tables {
    let device = device::of_vxlan(network.vni, receiver.family);
    let mut tables = Tables::default();
    let port = (receiver.port != backend.port).then_some(receiver.port);
    tables.fdb.insert(
        FdbKey { device, mac: receiver.mac.octets() },
        FdbEntry { destination, port, vni: None, lasting: true, bound: false },
    );
    let told = mtu(network, &me.underlay);
    let mtu = longest(told, iter::once(receiver.mtu), told);
    for prefix in me.usable(&peer.subnets) {
        let (gateway, onlink) = match prefix.network() {
            base @ IpAddr::V4(_) => (base, true),
            IpAddr::V6(_) => (IpAddr::V6(receiver.mac.link_local()), false),
        };
        tables.neighbours.insert(NeighbourKey { device, address: gateway }, receiver.mac);
        tables.routes.insert(routed::key(prefix), Route { device, gateway: Some(gateway), onlink, mtu });
    }
    tables
}

/// The peer's receiver that this host sends to: of the preferred underlay
/// family that both have, where a route leads if one does, on the network's
/// port if there is one; and why packets do not leave for it.
fn choose<'a>(
    network: &Network,
    backend: VxlanBackend,
    me: &Me,
    peer: &'a Peer,
) -> Result<(&'a VxlanReceiver, IpAddr, Option<Reason>), Reason> {
    let fits = |receiver: &VxlanReceiver| receiver.vni == network.vni && receiver.gbp == backend.gbp;
    let choices = me.underlay.families().filter_map(|family| {
        let destination = peer.endpoint.address(family)?;
        let usable = peer.endpoint.vteps().filter(|receiver| receiver.family == family && fits(receiver));
        let receiver = usable.min_by_key(|receiver| (receiver.port != backend.port, receiver.port))?;
        Some((receiver, destination))
    });
    prefer_reachable(me, choices).ok_or_else(|| why_none_fits(network, backend, me, peer))
}

fn why_none_fits(network: &Network, backend: VxlanBackend, me: &Me, peer: &Peer) -> Reason {
    if let Some(reason) = of_no_use(peer.endpoint.vteps().map(|receiver| receiver.vni), network.vni) {
        return reason;
    }
    let describe = |family: Family, vni: Vni, gbp: bool| {
        format!("VXLAN over {family}, VNI {vni}, {} GBP", if gbp { "with" } else { "without" })
    };
    let offered = peer.endpoint.vteps().map(|receiver| {
        let described = describe(receiver.family, receiver.vni, receiver.gbp);
        match peer.endpoint.address(receiver.family) {
            Some(_) => described,
            None => format!("{described} (but no {} underlay address)", receiver.family),
        }
    });
    let wanted = me.underlay.families().map(|family| describe(family, network.vni, backend.gbp));
    Reason::NoCommonReceiver { offered: list(offered), wanted: list(wanted) }
}

/// The VTEPs among devices that exist, are up and are the network's as it is: one of a VNI that it had before it was
/// deleted and made again is no use to anybody, and the control plane takes none.
pub(super) fn receivers(
    network: &Network,
    backend: VxlanBackend,
    actual: &Tables,
) -> impl Iterator<Item = VxlanReceiver> {
    let up = actual.devices.values().filter(|device| device.up);
    let vxlans = up.filter_map(|device| Some((device.vxlan()?, device.mtu)));
    let are_the_networks =
        move |(vxlan, _): &(&Vxlan, u32)| (vxlan.vni, vxlan.gbp) == (network.vni, backend.gbp);
    vxlans.filter(are_the_networks).map(|(vxlan, mtu)| VxlanReceiver {
        family: Family::of(vxlan.local),
        vni: vxlan.vni,
        port: vxlan.port,
        mac: vxlan.mac,
        mtu,
        gbp: vxlan.gbp,
    })
}
