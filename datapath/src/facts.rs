//! What a host looks like from below: read-only facts for the choice of an
//! underlay interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::{Family, Mac};
use loden_proto::names::NetworkId;

use crate::name::DeviceName;
use crate::prefixes::Prefixes;

/// A host's interfaces and the routes that say which one leads out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostFacts {
    /// All interfaces, by index.
    pub interfaces: Vec<Interface>,
    /// Default routes of the main table, best metric first within a family.
    /// A route with several next hops is several entries.
    pub default_routes: Vec<DefaultRoute>,
    /// Prefixes that are directly connected, with their devices. Those of
    /// loopback and of devices of ours are left out.
    pub connected: Vec<(DeviceName, IpNet)>,
    /// Routes of the main table that are not ours.
    pub routes: Vec<HostRoute>,
    /// Families in which rules beside the kernel's own send packets to other tables, or nowhere.
    pub ruled: Vec<Family>,
    /// Families in which the host forwards packets.
    pub forwards: Vec<Family>,
    /// How many neighbours that are not permanent the kernel keeps at most, in the families that it tells that of.
    pub neighbour_limits: Vec<(Family, usize)>,
    /// Where IPv6 is switched off.
    pub v6_off: V6Off,
}

/// Where a host has switched IPv6 off (`disable_ipv6` is not 0).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct V6Off {
    /// The kernel has no IPv6 at all.
    pub missing: bool,
    /// For all devices: none takes IPv6 packets, whatever its own setting.
    pub all: bool,
    /// On devices that are yet to come.
    pub default: bool,
    /// On these; looked at are devices of ours, bridges, and devices that have an address.
    pub devices: BTreeSet<DeviceName>,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Output device; `None` with several next hops, and where packets are dropped.
    pub device: Option<DeviceName>,
    /// Next hop; `None` on a link, and with several.
    pub gateway: Option<IpAddr>,
    /// Its metric; lower is better.
    pub metric: u32,
    /// Packets that take it get nowhere.
    pub drops: bool,
}

impl HostFacts {
    /// What the best of the routes to each prefix comes to, of those that fit.
    #[must_use]
    pub fn best_routes<T>(
        &self,
        fits: impl Fn(&HostRoute) -> bool,
        value: impl Fn(&HostRoute) -> T,
    ) -> Prefixes<T> {
        let mut routes: Vec<_> = self.routes.iter().filter(|route| fits(route)).collect();
        routes.sort_by_key(|route| route.metric);
        let mut best = Prefixes::default();
        // The last one stays.
        for route in routes.into_iter().rev() {
            best.insert(route.prefix, value(route));
        }
        best
    }

    /// The interface of a name.
    #[must_use]
    pub fn interface(&self, name: DeviceName) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The interface that has an address.
    #[must_use]
    pub fn interface_with(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.addresses.iter().any(|own| own.net.addr() == address))
    }
}

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: DeviceName,
    /// What made it, such as `veth`; `None` for physical devices and loopback.
    pub kind: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its MAC address; `None` on links that have none.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Whether whoever is on its link is found by asking all (ARP, neighbour
    /// discovery): not point-to-point.
    pub broadcast: bool,
    /// Whether it drops IPv4 packets whose way back leads over another device
    /// (`rp_filter` is 1).
    pub strict: bool,
    /// Whether IPv4 packets that come in by it are sent on, on a host that forwards.
    pub forwards: bool,
    /// Whether it is a device of ours.
    pub ours: bool,
    /// The network that its alias names, on a device of ours.
    pub network: Option<NetworkId>,
    /// What queues the packets that it sends (tc(8)), such as `fq_codel`; `noqueue` on a tunnel that nobody has touched.
    pub qdisc: Option<String>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
}

impl Interface {
    /// An Ethernet device that is up and has a carrier: for hosts in memory.
    #[must_use]
    pub const fn ethernet(index: u32, name: DeviceName) -> Self {
        Self {
            index,
            name,
            kind: None,
            mtu: 1500,
            mac: None,
            up: true,
            running: true,
            loopback: false,
            broadcast: true,
            strict: false,
            forwards: true,
            ours: false,
            network: None,
            qdisc: None,
            addresses: Vec::new(),
        }
    }
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    /// The address with its prefix length.
    pub net: IpNet,
    /// Set by hand rather than leased (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// A secondary IPv4 address, or a temporary IPv6 one (`IFA_F_SECONDARY`).
    pub secondary: bool,
    /// Not for new connections (`IFA_F_DEPRECATED`).
    pub deprecated: bool,
    /// Not usable: duplicate address detection runs or has failed.
    pub tentative: bool,
    /// Whether it is valid beyond its link (scope global).
    pub global: bool,
}

impl InterfaceAddress {
    /// One that was set by hand, for ever and everywhere: for hosts in memory.
    #[must_use]
    pub const fn lasting(net: IpNet) -> Self {
        Self { net, permanent: true, secondary: false, deprecated: false, tentative: false, global: true }
    }
}

/// A default route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DefaultRoute {
    /// Its family.
    pub family: Family,
    /// Output device.
    pub device: DeviceName,
    /// Next hop; `None` on point-to-point devices.
    pub gateway: Option<IpAddr>,
    /// Its metric; lower is better.
    pub metric: u32,
}

/// How the kernel would send to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteLookup {
    /// Output device.
    pub device: DeviceName,
    /// Next hop; `None` when the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
}
