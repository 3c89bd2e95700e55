//! What the kernel says happened: hints, compared by content with intent.
//!
//! A hint never says who did it: most notifications carry no sender, and our
//! own writes are announced like everybody's. So a hint [concerns](Hint::concerns)
//! an owner when what it says is not what the owner wants.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::{Mac, Vni};
use loden_proto::names::NetworkId;
use tokio::sync::mpsc;

use crate::backend::{Links, device_names};
use crate::name::DeviceName;
use crate::tables::{
    AddressKey, Device, FdbEntry, FdbKey, Kind, Lifetime, NeighbourKey, Route, RouteKey, SysctlKey, Tables,
};

/// A stream of hints. It ends after an overrun, and when nobody can listen any
/// more: then it is time to ask for another one.
pub type Hints = mpsc::Receiver<Hint>;

/// Something happened in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hint {
    /// A device appeared or changed.
    Device {
        /// Which.
        name: DeviceName,
        /// What it is as a device of the tables; `None` when it cannot be one.
        device: Option<Box<Device>>,
    },
    /// A device is gone, and everything on it.
    DeviceGone(DeviceName),
    /// An address was set.
    Address(AddressKey, Lifetime),
    /// An address is gone.
    AddressGone(AddressKey),
    /// A forwarding database entry was set.
    Fdb(FdbKey, FdbEntry),
    /// A forwarding database entry is gone.
    FdbGone(FdbKey),
    /// A neighbour was set; `None`: it is not a permanent one of ours.
    Neighbour(NeighbourKey, Option<Mac>),
    /// A neighbour is gone.
    NeighbourGone(NeighbourKey),
    /// A route of the main table was set; `None`: it is not of our shape or protocol, or ends the way.
    Route(RouteKey, Option<Route>),
    /// A route is gone.
    RouteGone(RouteKey),
    /// A route that drops was set, as one of ours.
    Blackhole(RouteKey),
    /// A route that drops, of ours, is gone.
    BlackholeGone(RouteKey),
    /// A route of the main table that is not ours is gone.
    HostRouteGone(IpNet),
    /// A neighbour on a device that is not ours was found, or failed to answer.
    Answer {
        /// Its address.
        address: IpAddr,
        /// Whether it was found.
        answers: bool,
    },
    /// A device's setting of forwarding or filtering changed; the kernel tells of no others.
    Setting(SysctlKey, i32),
    /// The host's own settings of forwarding or filtering changed, or its rules that choose tables of routes, or next
    /// hops that routes share.
    Settings,
    /// Notifications were lost, and more may get lost in this stream: anything
    /// may have happened.
    Overrun,
}

impl Hint {
    /// Whether the owner of `desired` should observe its part of the kernel
    /// again. The cost does not grow with the tables.
    ///
    /// Changes of the underlay that is not in `desired` never concern it; see
    /// [`Self::concerns_underlay`].
    #[must_use]
    pub fn concerns(&self, desired: &Tables) -> bool {
        match self {
            Self::Overrun => true,
            Self::Device { name, device } => {
                desired.devices.get(name).is_some_and(|wanted| device.as_deref() != Some(wanted))
            }
            Self::DeviceGone(name) => desired.devices.contains_key(name),
            Self::HostRouteGone(_) | Self::Answer { .. } | Self::Settings => false,
            Self::Setting(key, value) => desired.sysctls.get(key).is_some_and(|wanted| wanted != value),
            Self::Address(key, lifetime) => {
                desired.addresses.get(key).is_some_and(|wanted| wanted != lifetime)
            }
            Self::AddressGone(key) => desired.addresses.contains_key(key),
            Self::Fdb(key, entry) => desired.fdb.get(key).is_some_and(|wanted| wanted != entry),
            Self::FdbGone(key) => desired.fdb.contains_key(key),
            Self::Neighbour(key, mac) => {
                desired.neighbours.get(key).is_some_and(|wanted| mac.as_ref() != Some(wanted))
            }
            Self::NeighbourGone(key) => desired.neighbours.contains_key(key),
            Self::Route(key, route) => {
                let differs = |wanted: &Route| route.as_ref() != Some(wanted);
                desired.routes.get(key).is_some_and(differs) || desired.blackholes.contains_key(key)
            }
            Self::RouteGone(key) | Self::Blackhole(key) => desired.routes.contains_key(key),
            Self::BlackholeGone(key) => desired.blackholes.contains_key(key),
        }
    }

    /// Whether it may have taken routes over a link of the host away: the kernel
    /// does that without a notification.
    #[must_use]
    pub fn shakes(&self, links: &Links) -> bool {
        match self {
            Self::Device { name, .. } | Self::DeviceGone(name) => links.has(*name),
            Self::Address(key, _) | Self::AddressGone(key) => links.has(key.device),
            _ => false,
        }
    }

    /// Whether it may change who is on a link of the host.
    #[must_use]
    pub fn concerns_links(&self, links: &Links) -> bool {
        self.shakes(links) || self.host_route().is_some()
    }

    /// The prefix of a route of the host's that came or went.
    #[must_use]
    pub const fn host_route(&self) -> Option<IpNet> {
        match self {
            Self::HostRouteGone(prefix) | Self::Route(RouteKey { prefix, .. }, None) => Some(*prefix),
            _ => None,
        }
    }

    /// Whether addresses or devices that are not in `desired` changed, or
    /// settings: facts about the host should be read again.
    #[must_use]
    pub fn concerns_underlay(&self, desired: &Tables) -> bool {
        match self {
            Self::Overrun | Self::Settings => true,
            Self::Device { name, .. } | Self::DeviceGone(name) => !desired.devices.contains_key(name),
            Self::Setting(key, _) => !desired.devices.contains_key(&key.device),
            Self::Address(key, _) | Self::AddressGone(key) => !desired.devices.contains_key(&key.device),
            _ => false,
        }
    }
}

/// Names of networks whose tables a datapath is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scope {
    /// The network: devices whose alias names it, and what is on them.
    pub network: NetworkId,
    /// Its VNI; see [`Self::has`].
    pub vni: Vni,
    /// MAC address of the node's VTEPs; see [`Self::has`].
    pub mac: Mac,
    /// Pools of the network: routes of ours to prefixes within are the
    /// network's, also over devices that are not.
    pub pools: Vec<IpNet>,
    /// Pools of all networks of the host, once all are known: routes of ours that lead elsewhere are of pools that
    /// there were, and this network's to remove.
    pub all: Option<Vec<IpNet>>,
}

impl Scope {
    /// Whether a tunnel device is the network's. One without an alias of ours is when it has the name and, of VXLAN,
    /// the VNI and the MAC address that we give at its creation: a process that ended before it gave the alias has
    /// left it, or somebody has changed that.
    #[must_use]
    pub fn has(&self, name: DeviceName, device: &Device) -> bool {
        match &device.alias {
            Some(alias) => alias.network == self.network,
            None => {
                let is_made_so = match &device.kind {
                    Kind::Vxlan(vxlan) => (vxlan.vni, vxlan.mac) == (self.vni, self.mac),
                    Kind::Tun => true,
                };
                is_made_so && device_names(self.vni).contains(&name)
            }
        }
    }

    /// Whether a prefix lies in the network's pools.
    #[must_use]
    pub fn covers(&self, prefix: &IpNet) -> bool {
        self.pools.iter().any(|pool| pool.contains(prefix))
    }

    /// Whether a prefix lies in no network's pool.
    #[must_use]
    pub fn is_nobodys(&self, prefix: &IpNet) -> bool {
        self.all.as_ref().is_some_and(|all| !all.iter().any(|pool| pool.contains(prefix)))
    }
}
