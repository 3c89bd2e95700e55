//! Tunnel devices.

use std::fmt::{self, Display};
use std::net::IpAddr;

use loden_proto::model::{Mac, Port, Vni};
use loden_proto::names::NetworkId;

use crate::name::DeviceName;

/// A tunnel device. Which attributes change live is the plan's knowledge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Whose it is. `None` in the kernel: created, but not named ours yet.
    pub alias: Option<Alias>,
    /// Which kind of tunnel it is the end of.
    pub kind: Kind,
    /// MTU in bytes, of inner packets.
    pub mtu: u32,
    /// Whether nothing else is switched on or off. Of VXLAN: outer UDP
    /// checksums are sent and wanted, the outer TTL, TOS and DF are the
    /// kernel's, no ARP proxy, short-circuiting or miss notifications, no
    /// external control, no default destination, neighbours are looked up. Of
    /// all: no protocol has it down (`protodown`).
    pub plain: bool,
    /// Whether the kernel makes no IPv6 link-local address (`addrgenmode none`).
    pub no_link_local: bool,
    /// Whether it is a port of a bridge or bond, or in a VRF: ours never are.
    pub attached: bool,
    /// Whether it is administratively up.
    pub up: bool,
}

/// Which kind of tunnel a device is the end of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The kernel's own.
    Vxlan(Vxlan),
    /// One of this process: what it does is said by [`Listening`](crate::tunnel::engine::Listening). It outlives the
    /// process.
    Tun,
}

/// What a VXLAN device sends and takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vxlan {
    /// The network identifier of what it sends and takes.
    pub vni: Vni,
    /// UDP port that it listens on and sends to.
    pub port: Port,
    /// Underlay address that it sends from; its family is the device's.
    pub local: IpAddr,
    /// The device below it. `None` in the kernel: none, or one without a name
    /// that we can say.
    pub lower: Option<DeviceName>,
    /// MAC address of the VTEP.
    pub mac: Mac,
    /// Whether it learns MAC addresses from what it receives.
    pub learning: bool,
    /// Whether it carries the group policy extension.
    pub gbp: bool,
}

impl Device {
    /// What it is as a VXLAN device, if it is one.
    #[must_use]
    pub const fn vxlan(&self) -> Option<&Vxlan> {
        match &self.kind {
            Kind::Vxlan(vxlan) => Some(vxlan),
            Kind::Tun => None,
        }
    }

    /// The same, to be changed.
    pub const fn vxlan_mut(&mut self) -> Option<&mut Vxlan> {
        match &mut self.kind {
            Kind::Vxlan(vxlan) => Some(vxlan),
            Kind::Tun => None,
        }
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind::Vxlan(vxlan) = &self.kind else { return write!(f, "tun mtu {}", self.mtu) };
        write!(f, "vxlan vni {} port {} local {}", vxlan.vni, vxlan.port, vxlan.local)?;
        if let Some(lower) = vxlan.lower {
            write!(f, " lower {lower}")?;
        }
        write!(f, " mac {} mtu {}", vxlan.mac, self.mtu)?;
        f.write_str(if vxlan.learning { " learning" } else { " nolearning" })?;
        if vxlan.gbp { f.write_str(" gbp") } else { Ok(()) }
    }
}

/// Says in the kernel whose a device is: `loden:<network>:<instance>`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Alias {
    /// The network.
    pub network: NetworkId,
    /// Which of the network's receive instances, such as `vxlan-ipv4`.
    pub instance: String,
}

impl Alias {
    /// Reads a device's alias; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (network, instance) = text.strip_prefix("loden:")?.split_once(':')?;
        Some(Self { network: network.parse().ok()?, instance: instance.to_owned() })
    }
}

impl Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loden:{}:{}", self.network, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_aliases_are_ours() {
        let alias = Alias::parse("loden:blue:vxlan-ipv4").unwrap();
        assert_eq!((alias.network.as_str(), alias.instance.as_str()), ("blue", "vxlan-ipv4"));
        assert_eq!(Alias::parse(&alias.to_string()), Some(alias));
        for text in ["", "loden", "loden:blue", "uplink", "loden::x", "loden:Blue:x"] {
            assert_eq!(Alias::parse(text), None, "{text}");
        }
    }
}
