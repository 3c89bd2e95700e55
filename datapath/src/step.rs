//! One thing to do to a kernel: exactly one request, or one setting written.

use std::fmt::{self, Display};
use std::net::IpAddr;

use loden_proto::model::{Family, Mac, Mtu};

use crate::name::DeviceName;
use crate::tables::{
    AddressKey, Alias, Device, FdbEntry, FdbKey, Lifetime, NeighbourKey, RemoteKey, Rival, Route, RouteKey,
    SysctlKey, Tables, Vxlan,
};
use crate::tunnel::engine::{Behind, Listening};

/// One thing to do. Sets replace, unsets of what is gone are done: every step
/// can be repeated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Delete a device, and with it everything on it.
    DeleteDevice(DeviceName),
    /// Create a device with its kernel attributes and MAC address, down and
    /// without an alias.
    CreateDevice(DeviceName, Box<Device>),
    /// Change one attribute of a device.
    ChangeDevice(DeviceName, Change),
    /// Write a setting.
    SetSysctl(SysctlKey, i32),
    /// Set an address.
    SetAddress(AddressKey),
    /// Unset an address.
    UnsetAddress(AddressKey),
    /// Set a forwarding database entry.
    SetFdb(FdbKey, FdbEntry),
    /// Set a neighbour.
    SetNeighbour(NeighbourKey, Mac),
    /// Receive and send on a TUN device, or do it otherwise from now on.
    Listen(DeviceName, Listening),
    /// Set a peer of a tunnel of this process.
    SetRemote(RemoteKey, Behind),
    /// Unset a peer of a tunnel of this process.
    UnsetRemote(RemoteKey),
    /// Set a route.
    SetRoute(RouteKey, Route),
    /// Unset a route; its device is part of what the kernel compares.
    UnsetRoute(RouteKey, DeviceName),
    /// Set a route that drops.
    SetBlackhole(RouteKey),
    /// Unset a route that drops.
    UnsetBlackhole(RouteKey),
    /// Unset a route in the place of one of ours; which is to be set then.
    Evict(Rival),
    /// Unset a neighbour.
    UnsetNeighbour(NeighbourKey),
    /// Unset a forwarding database entry.
    UnsetFdb(FdbKey),
}

/// What a device can change without being created again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Take it out of its bridge, bond or VRF; a VRF takes what leads over it.
    Detach,
    /// The device below it.
    Lower(DeviceName),
    /// Underlay address that it sends from, same family.
    Local(IpAddr),
    /// Learning of MAC addresses.
    Learning(bool),
    /// MAC address; the kernel drops all neighbours on the device.
    Mac(Mac),
    /// MTU in bytes; crossing 1280 takes IPv6 off the device or gives it back.
    Mtu(u32),
    /// Name as ours.
    Alias(Alias),
    /// Make no IPv6 link-local address.
    NoLinkLocal,
    /// Bring it up.
    Up,
}

impl Step {
    /// The device that the step is about, if it is about one.
    #[must_use]
    pub const fn device(&self) -> Option<DeviceName> {
        Some(match self {
            Self::DeleteDevice(device)
            | Self::CreateDevice(device, _)
            | Self::ChangeDevice(device, _)
            | Self::Listen(device, _)
            | Self::UnsetRoute(_, device) => *device,
            Self::SetSysctl(key, _) => key.device,
            Self::SetAddress(key) | Self::UnsetAddress(key) => key.device,
            Self::SetFdb(key, _) | Self::UnsetFdb(key) => key.device,
            Self::SetNeighbour(key, _) | Self::UnsetNeighbour(key) => key.device,
            Self::SetRemote(key, _) | Self::UnsetRemote(key) => key.device,
            Self::SetRoute(_, route) => route.device,
            Self::SetBlackhole(_) | Self::UnsetBlackhole(_) | Self::Evict(_) => return None,
        })
    }

    /// Does to tables what the kernel does to itself, side effects included:
    /// deleting a device drops what is on it, a new MAC address drops its
    /// neighbours, and the last IPv4 address takes IPv4 routes and neighbours
    /// with it.
    pub fn apply(&self, tables: &mut Tables) {
        match self {
            Self::DeleteDevice(device) => delete_device(tables, *device),
            Self::CreateDevice(device, attributes) => {
                let mut created = attributes.as_ref().clone();
                created.alias = None;
                created.no_link_local = false;
                created.up = false;
                tables.devices.insert(*device, created);
            }
            Self::ChangeDevice(device, change) => change_device(tables, *device, change),
            Self::SetSysctl(key, value) => drop(tables.sysctls.insert(*key, *value)),
            Self::SetAddress(key) => {
                // The kernel says yes, and leaves what is there.
                if !tables.addresses.keys().any(|other| key.excludes(other)) {
                    tables.addresses.insert(*key, Lifetime::Infinite);
                }
            }
            Self::UnsetAddress(key) => unset_address(tables, *key),
            Self::SetFdb(key, entry) => drop(tables.fdb.insert(*key, *entry)),
            Self::UnsetFdb(key) => drop(tables.fdb.remove(key)),
            Self::SetNeighbour(key, mac) => drop(tables.neighbours.insert(*key, *mac)),
            Self::UnsetNeighbour(key) => drop(tables.neighbours.remove(key)),
            Self::Listen(device, listening) => drop(tables.listening.insert(*device, listening.clone())),
            Self::SetRemote(key, behind) => drop(tables.remotes.insert(*key, *behind)),
            Self::UnsetRemote(key) => drop(tables.remotes.remove(key)),
            Self::SetRoute(key, route) => drop(tables.routes.insert(*key, *route)),
            Self::UnsetRoute(key, device) => {
                if tables.routes.get(key).is_some_and(|route| route.device == *device) {
                    tables.routes.remove(key);
                }
            }
            Self::SetBlackhole(key) => drop(tables.blackholes.insert(*key, ())),
            Self::UnsetBlackhole(key) => drop(tables.blackholes.remove(key)),
            Self::Evict(rival) => evict(tables, rival),
        }
    }
}

/// Where the kernel does not tell them apart, ours goes.
fn evict(tables: &mut Tables, rival: &Rival) {
    tables.rivals.remove(rival);
    if rival.only.is_selective() {
        return;
    }
    tables.routes.remove(&rival.key);
    tables.blackholes.remove(&rival.key);
}

fn delete_device(tables: &mut Tables, device: DeviceName) {
    tables.devices.remove(&device);
    tables.sysctls.retain(|key, _| key.device != device);
    tables.addresses.retain(|key, _| key.device != device);
    tables.fdb.retain(|key, _| key.device != device);
    tables.neighbours.retain(|key, _| key.device != device);
    tables.listening.remove(&device);
    tables.remotes.retain(|key, _| key.device != device);
    tables.routes.retain(|_, route| route.device != device);
}

fn change_device(tables: &mut Tables, name: DeviceName, change: &Change) {
    let Some(device) = tables.devices.get_mut(&name) else { return };
    match change {
        Change::Detach => {
            device.attached = false;
            tables.neighbours.retain(|key, _| key.device != name);
            tables.routes.retain(|_, route| route.device != name);
        }
        Change::Lower(_) | Change::Local(_) | Change::Learning(_) | Change::Mac(_) => {
            if let Some(vxlan) = device.vxlan_mut() {
                change_vxlan(vxlan, change);
            }
            if matches!(change, Change::Mac(_)) {
                tables.neighbours.retain(|key, _| key.device != name);
            }
        }
        Change::Mtu(mtu) => {
            let before = std::mem::replace(&mut device.mtu, *mtu);
            change_ipv6(tables, name, before >= Mtu::MIN_V6, *mtu >= Mtu::MIN_V6);
        }
        Change::Alias(alias) => device.alias = Some(alias.clone()),
        Change::NoLinkLocal => device.no_link_local = true,
        Change::Up => device.up = true,
    }
}

fn change_vxlan(vxlan: &mut Vxlan, change: &Change) {
    match change {
        Change::Lower(lower) => vxlan.lower = Some(*lower),
        Change::Local(local) => vxlan.local = *local,
        Change::Learning(learning) => vxlan.learning = *learning,
        Change::Mac(mac) => vxlan.mac = *mac,
        Change::Detach | Change::Mtu(_) | Change::Alias(_) | Change::NoLinkLocal | Change::Up => {}
    }
}

/// Below its smallest MTU the kernel takes IPv6 off a device altogether, and
/// gives it back with the default settings.
fn change_ipv6(tables: &mut Tables, name: DeviceName, before: bool, now: bool) {
    let v6 = |key: &SysctlKey| key.device == name && key.setting.family() == Family::V6;
    if before && !now {
        tables.addresses.retain(|key, _| key.device != name || key.address.addr().is_ipv4());
        tables.neighbours.retain(|key, _| key.device != name || key.address.is_ipv4());
        tables.routes.retain(|key, route| route.device != name || key.prefix.addr().is_ipv4());
        // What a setting prevents cannot happen.
        for (key, value) in tables.sysctls.iter_mut().filter(|(key, _)| v6(key)) {
            *value = key.setting.wanted();
        }
    }
    if before != now
        && let Some(device) = tables.devices.get_mut(&name)
    {
        device.no_link_local = before;
    }
    if now && !before {
        tables.sysctls.retain(|key, _| !v6(key));
    }
}

fn unset_address(tables: &mut Tables, key: AddressKey) {
    tables.addresses.remove(&key);
    let is_v4 = key.address.addr().is_ipv4();
    let any_left =
        tables.addresses.keys().any(|other| other.device == key.device && other.address.addr().is_ipv4());
    if is_v4 && !any_left {
        tables.neighbours.retain(|other, _| other.device != key.device || !other.address.is_ipv4());
        tables.routes.retain(|other, route| route.device != key.device || !other.prefix.addr().is_ipv4());
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteDevice(device) => write!(f, "- device {device}"),
            Self::CreateDevice(name, device) => write!(f, "+ device {name} {device}"),
            Self::ChangeDevice(device, change) => write!(f, "~ device {device} {change}"),
            Self::SetSysctl(key, value) => write!(f, "+ sysctl {key} {value}"),
            Self::SetAddress(key) => write!(f, "+ address {key}"),
            Self::UnsetAddress(key) => write!(f, "- address {key}"),
            Self::SetFdb(key, entry) => write!(f, "+ fdb {key} {entry} dev {}", key.device),
            Self::UnsetFdb(key) => write!(f, "- fdb {key} dev {}", key.device),
            Self::SetNeighbour(key, mac) => write!(f, "+ neighbour {} {mac} dev {}", key.address, key.device),
            Self::UnsetNeighbour(key) => write!(f, "- neighbour {} dev {}", key.address, key.device),
            Self::Listen(device, listening) => write!(f, "+ tunnel {device} {listening}"),
            Self::SetRemote(key, _) => write!(f, "+ remote {key}"),
            Self::UnsetRemote(key) => write!(f, "- remote {key}"),
            Self::SetRoute(key, route) => write!(f, "+ route {key} {route}"),
            Self::UnsetRoute(key, device) => write!(f, "- route {key} dev {device}"),
            Self::SetBlackhole(key) => write!(f, "+ blackhole {key}"),
            Self::UnsetBlackhole(key) => write!(f, "- blackhole {key}"),
            Self::Evict(rival) => write!(f, "- rival {rival}"),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detach => f.write_str("nomaster"),
            Self::Lower(lower) => write!(f, "lower {lower}"),
            Self::Local(local) => write!(f, "local {local}"),
            Self::Learning(true) => f.write_str("learning"),
            Self::Learning(false) => f.write_str("nolearning"),
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Mtu(mtu) => write!(f, "mtu {mtu}"),
            Self::Alias(alias) => write!(f, "alias {alias}"),
            Self::NoLinkLocal => f.write_str("addrgenmode none"),
            Self::Up => f.write_str("up"),
        }
    }
}

impl Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(peer) = self.peer {
            write!(f, " peer {peer}")?;
        }
        if self.scope != 0 {
            write!(f, " scope {}", self.scope)?;
        }
        write!(f, " dev {}", self.device)
    }
}

impl Display for FdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.mac;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Display for FdbEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dst {}", self.destination)?;
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if let Some(vni) = self.vni {
            write!(f, " vni {vni}")?;
        }
        Ok(())
    }
}

impl Display for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.endpoint, self.device)
    }
}

impl Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.prefix, self.metric)
    }
}

impl Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} type {} proto {}", self.key, self.kind, self.protocol)?;
        if let Some(source) = self.only.source {
            write!(f, " from {source}")?;
        }
        if self.only.tos != 0 {
            write!(f, " tos {:#04x}", self.only.tos)?;
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = self.device {
            write!(f, " dev #{device}")?;
        }
        Ok(())
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "dev {}", self.device)?;
        if self.onlink {
            f.write_str(" onlink")?;
        }
        self.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}
