//! What is in the kernel, or should be, as plain data.
//!
//! Every table is a map: entries are compared key by key, never as sets of
//! entries. Deleting a neighbour in the kernel looks at its key only, so
//! "add the new entry, delete the old one" would delete the new one.

mod device;
mod setting;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use loden_proto::model::{Family, Mac, Port, Vni};

use crate::name::DeviceName;
use crate::tunnel::engine::{Behind, Listening};
pub use device::{Alias, Device, Kind, Vxlan};
pub use setting::{Setting, SysctlKey};

/// Marks routes (`rtm_protocol`) and neighbours (`NDA_PROTOCOL`) as ours.
pub const PROTOCOL: u8 = 76;

/// The part of a kernel that belongs to one network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tables {
    /// Tunnel devices.
    pub devices: BTreeMap<DeviceName, Device>,
    /// Settings of tunnel devices below `/proc/sys/net`.
    pub sysctls: BTreeMap<SysctlKey, i32>,
    /// Addresses on tunnel devices; ours are whole prefixes (`/32`, `/128`).
    pub addresses: BTreeMap<AddressKey, Lifetime>,
    /// Forwarding databases: inner MAC to underlay address.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Permanent neighbours on tunnel devices: gateway to inner MAC.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Who is received, and where, on TUN devices.
    pub listening: BTreeMap<DeviceName, Listening>,
    /// Who is sent to from TUN devices.
    pub remotes: BTreeMap<RemoteKey, Behind>,
    /// Routes into tunnel devices, in the main table.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Routes that drop what no better one leads on, in the main table.
    pub blackholes: BTreeMap<RouteKey, ()>,
    /// Routes of whomever in places that are ours where we want them. Never
    /// desired.
    pub rivals: BTreeMap<Rival, ()>,
}

impl Tables {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of entries of all tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
            + self.sysctls.len()
            + self.addresses.len()
            + self.fdb.len()
            + self.neighbours.len()
            + self.listening.len()
            + self.remotes.len()
            + self.routes.len()
            + self.blackholes.len()
            + self.rivals.len()
    }

    /// Takes over all entries of `other`; where keys are the same, its values.
    pub fn extend(&mut self, other: Self) {
        self.devices.extend(other.devices);
        self.sysctls.extend(other.sysctls);
        self.addresses.extend(other.addresses);
        self.fdb.extend(other.fdb);
        self.neighbours.extend(other.neighbours);
        self.listening.extend(other.listening);
        self.remotes.extend(other.remotes);
        self.routes.extend(other.routes);
        self.blackholes.extend(other.blackholes);
        self.rivals.extend(other.rivals);
    }

    /// Whether a forwarding database entry that the kernel has is nobody's of ours. Where the device learns, what
    /// it has learned is its own.
    #[must_use]
    pub(crate) fn is_foreign(&self, key: &FdbKey, entry: &FdbEntry) -> bool {
        let learned = || {
            !entry.lasting
                && self.devices.get(&key.device).and_then(Device::vxlan).is_some_and(|vxlan| vxlan.learning)
        };
        !self.fdb.contains_key(key) && !learned()
    }

    /// Gives back the room that many insertions have left.
    pub(crate) fn pack(&mut self) {
        pack(&mut self.fdb);
        pack(&mut self.neighbours);
        pack(&mut self.remotes);
        pack(&mut self.routes);
    }

    /// Drops all keys of `other`, whatever their values.
    pub fn remove(&mut self, other: &Self) {
        fn without<K: Ord, V>(table: &mut BTreeMap<K, V>, other: &BTreeMap<K, V>) {
            for key in other.keys() {
                table.remove(key);
            }
        }
        without(&mut self.devices, &other.devices);
        without(&mut self.sysctls, &other.sysctls);
        without(&mut self.addresses, &other.addresses);
        without(&mut self.fdb, &other.fdb);
        without(&mut self.neighbours, &other.neighbours);
        without(&mut self.listening, &other.listening);
        without(&mut self.remotes, &other.remotes);
        without(&mut self.routes, &other.routes);
        without(&mut self.blackholes, &other.blackholes);
        without(&mut self.rivals, &other.rivals);
    }
}

/// Builds a map anew, with full nodes: one that grew entry by entry, in order, has half of its room to spare.
pub(crate) fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

/// Key of an address: all of it that cannot be changed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressKey {
    /// The device.
    pub device: DeviceName,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The far end of a point-to-point link, which brings a route along. Ours have none.
    pub peer: Option<IpAddr>,
    /// How far an IPv4 address is good for (`rtm_scope`); 0, everywhere, of ours, and of all in IPv6, where the address
    /// itself says that.
    pub scope: u8,
}

impl AddressKey {
    /// An address as ours are.
    #[must_use]
    pub const fn new(device: DeviceName, address: IpNet) -> Self {
        Self { device, address, peer: None, scope: 0 }
    }

    /// Whether the kernel takes only one of the two: in IPv6 the far end does not tell them apart.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let of = |key: &Self| (key.device, key.address, key.peer.filter(|_| key.address.addr().is_ipv4()));
        self != other && of(self) == of(other)
    }
}

/// How long an address stays (RFC 4862, 5.5.4; IPv4 addresses have the same in Linux).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Lifetime {
    /// For ever, and preferred for ever; as ours are.
    Infinite,
    /// Its end, or that of its being a source of new connections, is set.
    Limited,
}

/// Key of a forwarding database entry.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FdbKey {
    /// The device.
    pub device: DeviceName,
    /// Destination of inner frames, in wire order: a station's MAC address. A
    /// foreign hand can also set a group's, or zeros for whatever has no entry.
    pub mac: [u8; 6],
}

/// Where frames go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FdbEntry {
    /// Underlay address of the receiver.
    pub destination: IpAddr,
    /// UDP port, where it is not the device's.
    pub port: Option<Port>,
    /// Network identifier, where it is not the device's.
    pub vni: Option<Vni>,
    /// Whether it stays as it is: the kernel neither forgets it nor learns another one in its place, and it leads to
    /// one receiver, not to a group of next hops.
    pub lasting: bool,
    /// Whether it is sent over one device whatever the routes say (`NDA_IFINDEX`); ours are not.
    pub bound: bool,
}

impl FdbEntry {
    /// Whether it leads to a group of next hops (`NDA_NH_ID`), which takes the place of a destination.
    #[must_use]
    pub const fn is_group(&self) -> bool {
        self.destination.is_unspecified()
    }
}

/// Key of a neighbour.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NeighbourKey {
    /// The device.
    pub device: DeviceName,
    /// The gateway's address.
    pub address: IpAddr,
}

/// Key of a peer of a tunnel of this process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RemoteKey {
    /// The TUN device.
    pub device: DeviceName,
    /// Underlay address and UDP port where the peer receives, and that it sends from.
    pub endpoint: SocketAddr,
}

/// Key of a route. Two routes to one prefix with different metrics are two
/// routes to the kernel.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouteKey {
    /// Destination.
    pub prefix: IpNet,
    /// Metric, never 0; see [`metric`].
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Route {
    /// Output device.
    pub device: DeviceName,
    /// Next hop; of the other family than the prefix only for IPv4 via IPv6
    /// (`RTA_VIA`, RFC 5549). `None` into a TUN device, which has no neighbours.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is taken to be on the link without a look at the
    /// routing table (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// The longest packet in bytes that it takes (`RTAX_MTU`), where that is less than the device does: the far end
    /// would not get longer ones to its pods.
    pub mtu: Option<NonZeroU16>,
}

/// A route in the place of one of ours, and not that one: to the same prefix
/// with the same metric. The kernel uses only one of them. In IPv4 that is the
/// first, and setting ours leaves it the second; in IPv6 ours may come behind
/// one that drops.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rival {
    /// The place.
    pub key: RouteKey,
    /// What becomes of packets that take it (`rtm_type`).
    pub kind: u8,
    /// Who has set it (`rtm_protocol`).
    pub protocol: u8,
    /// Index of its output device; `None` with several next hops, or none.
    pub device: Option<u32>,
    /// Its next hop.
    pub gateway: Option<IpAddr>,
    /// The packets that it is for.
    pub only: Only,
}

/// Which packets a route is for, if not for all to its prefix.
///
/// One for a source (IPv6) takes these packets whatever its metric, and as long as it is there, the kernel finds no
/// route for all sources to that same prefix. One for a type of service (IPv4) takes its packets and no others.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Only {
    /// From there.
    pub source: Option<IpNet>,
    /// With this type of service; 0: with any.
    pub tos: u8,
}

impl Only {
    /// Whether there is a choice at all.
    #[must_use]
    pub const fn is_selective(&self) -> bool {
        self.source.is_some() || self.tos != 0
    }
}

/// The metric of a route that drops: whatever else leads to the same prefix is
/// better, a bridge's connected route above all.
pub const BLACKHOLE_METRIC: u32 = 1_000_000;

/// The metric of the route to a subnet, 1 to 1024: the low ten bits of the
/// subnet's number, plus one.
///
/// The kernel hashes IPv4 next hops by metric but not by gateway; with one
/// metric for all, adding `n` routes through one device takes `n²`. Never 0: a
/// replace with metric 0 overwrites even a connected route.
#[must_use]
pub fn metric(subnet: IpNet) -> u32 {
    let host_bits = u32::from(Family::of_net(subnet).bits() - subnet.prefix_len());
    let base = match subnet.network() {
        IpAddr::V4(base) => u128::from(u32::from(base)),
        IpAddr::V6(base) => u128::from(base),
    };
    let number = base.checked_shr(host_bits).unwrap_or(0) & 0x3ff;
    // Ten bits.
    1 + number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_subnets_have_different_metrics_and_none_is_zero() {
        let of = |text: &str| metric(text.parse().unwrap());
        assert_eq!(of("10.244.0.0/24"), 1);
        assert_eq!(of("10.244.1.0/24"), 2);
        assert_eq!(of("10.247.255.0/24"), 1024);
        assert_eq!(of("2001:db8:0:5::/64"), 6);
        assert_eq!(of("0.0.0.0/0"), 1);
        assert_eq!(of("::/0"), 1);
    }
}
