//! From peers to tables: pure, one function per backend.
//!
//! ```text
//!  network, me ────────────▶ own_tables ──┐
//!                                         ├─▶ Tables
//!  network, me, peer ──────▶ peer_tables ─┘      (or why not, per peer)
//! ```
//!
//! The entries of a peer depend on nothing but the network, this host and that
//! peer, so a change costs what it changes.

mod desired;
mod device;
mod links;
mod reason;
mod routed;
mod screen;
mod udp;
mod vxlan;
mod ways;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use loden_proto::model::{Backend, Family, Key, Mac, Network, Peer, Pool, Port, Receiver, Subnets, Vni};
use loden_proto::names::{NetworkId, NodeId};

pub use desired::{Delta, Desired};
pub use device::{device_names, vni_of};
pub use links::{Link, Links};
pub use reason::{Reason, Refused};
pub use screen::{Screen, Verdict};
pub use ways::Ways;

use crate::hint::Scope;
use crate::name::DeviceName;
use crate::tables::{BLACKHOLE_METRIC, RouteKey, Tables};

/// The smallest MTU that the kernel lets a device have (RFC 791, 3.1).
const SMALLEST_MTU: u32 = 68;

/// The largest MTU that the kernel lets a route have.
const MOST_OF_A_ROUTE: u32 = 65535 - 15;

/// This host, as a member of a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Me {
    /// Its name.
    pub node: NodeId,
    /// Its subnets: its own lease.
    pub subnets: Subnets,
    /// What it sends over.
    pub underlay: Underlay,
    /// MAC address of its VTEPs; usually [`mac_of`].
    pub mac: Mac,
    /// What senders have to show to its UDP tunnel: the present key, and for a while the one before.
    pub keys: Vec<Key>,
    /// Whether it drops what is for its subnets and for no pod, instead of sending it by the default route.
    pub blackhole: bool,
    /// The port of its UDP tunnels, where it is not the network's.
    pub udp_port: Option<Port>,
}

/// The interface below the tunnels, and what is bound on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Underlay {
    /// The interface.
    pub lower: DeviceName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// IPv4 address to send from. `None`: no IPv4 underlay.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address to send from. `None`: no IPv6 underlay.
    pub v6: Option<Ipv6Addr>,
    /// Prefixes directly connected to the host: a peer's subnet may not
    /// overlap them.
    pub prefixes: Vec<IpNet>,
    /// Who is on a link of the host.
    pub links: Links,
    /// Who a route leads to.
    pub ways: Ways,
    /// Addresses on a link that do not answer (neighbours that have failed).
    pub unanswered: BTreeSet<IpAddr>,
    /// Families in which the host takes packets without encapsulation: peers
    /// may use it as next hop.
    pub routed: Vec<Family>,
    /// Families of the pods' packets that the host takes at all: nothing is programmed for others.
    pub inner: Vec<Family>,
}

impl Me {
    /// The subnets of the families that the host takes packets of, if there is one.
    #[must_use]
    pub fn usable_subnets(&self) -> Option<Subnets> {
        Subnets::new(self.usable(&self.subnets)).ok()
    }

    /// Those of the families that the host takes packets of.
    pub(crate) fn usable(&self, subnets: &Subnets) -> impl Iterator<Item = IpNet> {
        subnets.iter().filter(|subnet| self.underlay.inner.contains(&Family::of_net(*subnet)))
    }
}

/// The entries of a peer, and what of it could not be had.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entries {
    /// What can be programmed.
    pub tables: Tables,
    /// Why not all of it can be.
    pub lacking: Option<Reason>,
}

impl Entries {
    fn lacking(reason: Reason) -> Self {
        Self { tables: Tables::default(), lacking: Some(reason) }
    }
}

impl Underlay {
    /// The families that the host can send over, in the order of preference.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        self.addresses().map(Family::of)
    }

    /// The addresses that the host sends from, in the order of preference.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// All tables for a set of peers, and the peers that are not in them whole.
///
/// The peers are taken as they are; [`Desired`] screens them first.
pub fn tables<'a>(
    network: &Network,
    me: &Me,
    peers: impl IntoIterator<Item = &'a Peer>,
) -> (Tables, Vec<Refused>) {
    let mut tables = own_tables(network, me);
    let mut refused = Vec::new();
    for peer in peers {
        let entries = peer_tables(network, me, peer);
        tables.extend(entries.tables);
        refused.extend(entries.lacking.map(|reason| Refused { node: peer.node.clone(), reason }));
    }
    (tables, refused)
}

/// What there is without any peer: devices, their settings and addresses, and
/// the end of the way for what no pod takes.
#[must_use]
pub fn own_tables(network: &Network, me: &Me) -> Tables {
    let mut tables = match network.backend {
        Backend::Alloc | Backend::HostGw => Tables::default(),
        Backend::Udp(backend) => udp::own_tables(network, backend, me),
        Backend::Vxlan(backend) => vxlan::own_tables(network, backend, me),
    };
    if me.blackhole && network.backend != Backend::Alloc {
        let key = |prefix| RouteKey { prefix, metric: BLACKHOLE_METRIC };
        tables.blackholes = me.usable(&me.subnets).map(|subnet| (key(subnet), ())).collect();
    }
    tables
}

/// The entries of one peer.
#[must_use]
pub fn peer_tables(network: &Network, me: &Me, peer: &Peer) -> Entries {
    match network.backend {
        Backend::Alloc => Entries::default(),
        Backend::Udp(_) => udp::peer_tables(network, me, peer),
        Backend::HostGw => routed::peer_tables(network, me, peer),
        Backend::Vxlan(backend) => vxlan::peer_tables(network, backend, me, peer),
    }
}

/// What this host receives on, as its kernel reports it: to be published.
#[must_use]
pub fn receivers(network: &Network, me: &Me, actual: &Tables) -> Vec<Receiver> {
    let tunnels: Vec<_> = match network.backend {
        Backend::Alloc | Backend::HostGw => Vec::new(),
        Backend::Vxlan(backend) => vxlan::receivers(network, backend, actual).map(Receiver::Vxlan).collect(),
        Backend::Udp(_) => udp::receivers(network, actual).map(Receiver::Udp).collect(),
    };
    tunnels.into_iter().chain(routed::receivers(network, me)).collect()
}

/// MTU for pods, in bytes: that of the tunnels that the network may use on this
/// host.
#[must_use]
pub fn pod_mtu(network: &Network, underlay: &Underlay) -> u32 {
    match network.backend {
        Backend::Alloc | Backend::HostGw => within(network, underlay.mtu),
        Backend::Vxlan(_) => vxlan::mtu(network, underlay),
        Backend::Udp(_) => udp::mtu(network, underlay),
    }
}

/// MTU in bytes of tunnels that add so many over a family: what the lower device leaves over any, or the network's where
/// it is smaller.
fn tunnel_mtu(network: &Network, underlay: &Underlay, overhead: fn(Family) -> u32) -> u32 {
    let most = underlay.families().map(overhead).max().unwrap_or_default();
    within(network, underlay.mtu.saturating_sub(most).max(SMALLEST_MTU))
}

/// The network's own MTU, but no more than there is room for.
fn within(network: &Network, room: u32) -> u32 {
    network.mtu.map_or(room, |mtu| mtu.get().min(room))
}

/// The longest packet in bytes for pods behind a peer's receivers of these MTUs (0: not known), where that is less than
/// goes over a device of ours with an MTU of `room`.
///
/// Longer ones would be lost there without a word to IPv6 senders on this host where a bridge's packets are filtered
/// (br_netfilter): their fragments are put together before they are forwarded, and only what a route takes is known
/// when they are cut again.
fn longest(told: u32, theirs: impl Iterator<Item = u32>, room: u32) -> Option<NonZeroU16> {
    let longest = theirs.filter(|mtu| *mtu > 0).fold(told, u32::min);
    // More is less to the kernel.
    let longest = longest.min(MOST_OF_A_ROUTE);
    u16::try_from(longest).ok().and_then(NonZeroU16::new).filter(|_| longest < room)
}

/// The first of a peer's receivers that a route leads to, or where there is none, the first; and then why packets do not
/// leave for it. Its entries stay: the route may be back in a moment.
fn prefer_reachable<R>(
    me: &Me,
    choices: impl Iterator<Item = (R, IpAddr)>,
) -> Option<(R, IpAddr, Option<Reason>)> {
    let judged = choices.map(|(receiver, address)| {
        let lost = (!me.underlay.ways.lead_to(address)).then_some(Reason::NoRoute { address });
        (receiver, address, lost)
    });
    judged.min_by_key(|(.., lost)| lost.is_some())
}

/// Why nothing can be sent to receivers of these VNIs, whatever else they are.
fn of_no_use(mut vnis: impl Iterator<Item = Vni>, ours: Vni) -> Option<Reason> {
    let Some(theirs) = vnis.next() else { return Some(Reason::NotReady) };
    (theirs != ours && vnis.all(|vni| vni != ours)).then_some(Reason::OtherVni { theirs, ours })
}

/// For a sentence.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "nothing".to_owned() } else { items.join("; ") }
}

/// What to ask a datapath for, to see a network's part of the kernel; `mac` is that of the node's VTEPs.
#[must_use]
pub fn scope(network: &Network, mac: Mac) -> Scope {
    let pools = network.pools.iter().map(Pool::cidr).collect();
    Scope { network: network.id.clone(), vni: network.vni, mac, pools, all: None }
}

/// The MAC address of a node's VTEPs in a network: always the same, locally
/// administered, unicast.
#[must_use]
pub fn mac_of(node: &NodeId, network: &NetworkId) -> Mac {
    let hash = stable_hash(&[node.as_str(), network.as_str()]);
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    // Bit 1 of the first octet: locally administered; bit 0: multicast.
    let octets = [(a | 0x02) & !0x01, b, c, d, e, f];
    // Unicast, and not zero since a bit is set.
    Mac::try_from(octets).unwrap_or_else(|_| unreachable!("a locally administered unicast address is valid"))
}

/// FNV-1a over the parts with a separator, then an avalanche (MurmurHash3's
/// finalizer), so that every bit of the answer depends on all of the input.
fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_mac_is_stable_and_a_nodes_own() {
        let network: NetworkId = "default".parse().unwrap();
        let mac = |node: &str| mac_of(&node.parse().unwrap(), &network);
        assert_eq!(mac("node-1"), mac("node-1"));
        assert_eq!(mac("node-1").to_string(), "3e:72:7c:3f:a9:54");
        assert_ne!(mac_of(&"node-1".parse().unwrap(), &"blue".parse().unwrap()), mac("node-1"));
        let all: HashSet<Mac> = (0..10_000).map(|index| mac(&format!("node-{index}"))).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|mac| mac.octets()[0] & 3 == 2));
    }
}
