//! Next hops: packets go to a peer as they are, over a link that both are on.
//!
//! ```text
//!  10.244.2.0/24 ──route──▶ 192.0.2.9 dev eth0       (IPv4: via either family, RFC 5549)
//!  2001:db8:2::/64 ──route──▶ 2001:db8:ffff::9 dev eth0
//! ```
//!
//! Whether a peer is on a link is read from the host's routes: the best one to
//! it is a link's own. That a lookup answers without a gateway would not do,
//! for point-to-point devices have none either.

use std::net::IpAddr;
use std::num::NonZeroU16;

use loden_proto::model::{Family, Network, Peer, Receiver, RoutedReceiver};

use super::{Entries, Link, Me, Reason, longest, pod_mtu};
use crate::tables::{Route, RouteKey, Tables, metric};
use ipnet::IpNet;

/// Everything of a peer by next hop; each subnet by itself.
pub(super) fn peer_tables(network: &Network, me: &Me, peer: &Peer) -> Entries {
    if peer.endpoint.receivers.is_empty() {
        return Entries::lacking(Reason::NotReady);
    }
    let mut tables = Tables::default();
    let mut lacking = None;
    for prefix in me.usable(&peer.subnets) {
        match next_hop(me, peer, prefix) {
            Ok((link, gateway)) => {
                // What a tunnel takes that the network had before is of no account.
                let routed = |receiver: &&Receiver| matches!(receiver, Receiver::Routed(_));
                let theirs = peer.endpoint.receivers.iter().filter(routed).map(Receiver::mtu);
                let mtu = longest(pod_mtu(network, &me.underlay), theirs, link.mtu);
                tables.routes.insert(key(prefix), route(link, gateway, mtu));
                // The route stays: packets are what makes the kernel ask again.
                if me.underlay.unanswered.contains(&gateway) {
                    lacking = lacking.or(Some(Reason::Unanswered { address: gateway, device: link.device }));
                }
            }
            Err(reason) => lacking = lacking.or(Some(reason)),
        }
    }
    Entries { tables, lacking }
}

pub(super) fn key(prefix: IpNet) -> RouteKey {
    RouteKey { prefix, metric: metric(prefix) }
}

/// A route by next hop, over a link that may take longer packets than pods do.
pub(super) const fn route(link: Link, gateway: IpAddr, mtu: Option<NonZeroU16>) -> Route {
    Route { device: link.device, gateway: Some(gateway), onlink: false, mtu }
}

/// The link and the address on it by which a subnet of a peer is reached: one that answers, if there is one.
pub(super) fn next_hop(me: &Me, peer: &Peer, prefix: IpNet) -> Result<(Link, IpAddr), Reason> {
    // An IPv4 route may lead to an IPv6 next hop (RTA_VIA), not the reverse.
    let families: &[Family] = match prefix {
        IpNet::V4(_) => &[Family::V4, Family::V6],
        IpNet::V6(_) => &[Family::V6],
    };
    let addresses = || families.iter().filter_map(|family| peer.endpoint.next_hop(*family));
    let adjacent = addresses().filter_map(|address| Some((me.underlay.links.to(address)?, address)));
    // The first of those that are alike.
    adjacent.min_by_key(|(_, address)| me.underlay.unanswered.contains(address)).ok_or_else(|| {
        let ours = |address: &IpAddr| me.underlay.families().any(|family| family == Family::of(*address));
        let named = addresses().find(ours).or_else(|| addresses().next());
        named.map_or(Reason::NoNextHop { subnet: prefix }, |address| Reason::NotAdjacent { address })
    })
}

/// The families in which this host takes packets as they are.
pub(super) fn receivers(network: &Network, me: &Me) -> impl Iterator<Item = Receiver> {
    let routed = network.backend.is_routed().then(|| me.underlay.routed.iter());
    // No packet is longer (RFC 791, 3.1).
    let mtu = pod_mtu(network, &me.underlay).min(u16::MAX.into());
    routed.into_iter().flatten().map(move |family| Receiver::Routed(RoutedReceiver { family: *family, mtu }))
}
