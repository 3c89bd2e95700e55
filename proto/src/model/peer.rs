//! Leases and peers: who has which subnets, and how to reach them.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Family, Key, Mac, Port, Vni};
use crate::InvalidValue;
use crate::names::{NetworkId, NodeId};

/// At most one subnet per address family, at least one, without host bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct Subnets {
    /// The IPv4 subnet.
    pub v4: Option<Ipv4Net>,
    /// The IPv6 subnet.
    pub v6: Option<Ipv6Net>,
}

impl Subnets {
    /// Sorts subnets into their families.
    ///
    /// # Errors
    /// When there is none, two of one family, or host bits are set.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Result<Self, InvalidValue> {
        let mut subnets = Self { v4: None, v6: None };
        for net in nets {
            if net != net.trunc() {
                let rule = format!("has host bits set; the network is {}", net.trunc());
                return Err(InvalidValue::new(net, rule));
            }
            let taken = match net {
                IpNet::V4(net) => subnets.v4.replace(net).is_some(),
                IpNet::V6(net) => subnets.v6.replace(net).is_some(),
            };
            if taken {
                let rule = format!("is a second {} subnet; one per family", Family::of_net(net));
                return Err(InvalidValue::new(net, rule));
            }
        }
        if subnets.iter().next().is_none() {
            return Err(InvalidValue::new("", "at least one subnet is required"));
        }
        Ok(subnets)
    }

    /// The subnets, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }
}

impl Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, net) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            net.fmt(f)?;
        }
        Ok(())
    }
}

/// Where and how a node receives.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct Endpoint {
    /// The IPv4 underlay address that peers send to.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 underlay address that peers send to.
    pub v6: Option<Ipv6Addr>,
    /// The instances on which the node is ready to receive.
    pub receivers: Vec<Receiver>,
}

impl Endpoint {
    /// The underlay address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// All underlay addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The VTEPs among the receivers.
    pub fn vteps(&self) -> impl Iterator<Item = &VxlanReceiver> {
        self.receivers.iter().filter_map(|receiver| match receiver {
            Receiver::Vxlan(vtep) => Some(vtep),
            Receiver::Routed(_) | Receiver::Udp(_) => None,
        })
    }

    /// Where it takes the agents' own tunnel.
    pub fn udp(&self) -> impl Iterator<Item = &UdpReceiver> {
        self.receivers.iter().filter_map(|receiver| match receiver {
            Receiver::Udp(udp) => Some(udp),
            Receiver::Routed(_) | Receiver::Vxlan(_) => None,
        })
    }

    /// The underlay address of a family, if the node forwards what reaches it
    /// there without encapsulation.
    #[must_use]
    pub fn next_hop(&self, family: Family) -> Option<IpAddr> {
        let mut routed = self.receivers.iter().filter(|receiver| matches!(receiver, Receiver::Routed(_)));
        self.address(family).filter(|_| routed.any(|receiver| receiver.family() == family))
    }
}

/// One thing that receives.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Receiver {
    /// A kernel VXLAN device.
    Vxlan(VxlanReceiver),
    /// The node itself, as a router.
    Routed(RoutedReceiver),
    /// The agent's own tunnel.
    Udp(UdpReceiver),
}

impl Receiver {
    /// The family of the underlay.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Vxlan(vtep) => vtep.family,
            Self::Routed(routed) => routed.family,
            Self::Udp(udp) => udp.family,
        }
    }

    /// Bytes of the longest packet that gets to the pods behind it; 0 when not known.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        match self {
            Self::Vxlan(vtep) => vtep.mtu,
            Self::Routed(routed) => routed.mtu,
            Self::Udp(udp) => udp.mtu,
        }
    }

    /// Its field in a message.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::Routed(_) => "routed",
            Self::Udp(_) => "udp",
        }
    }
}

/// A node that forwards packets to its subnets that reach it as they are.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct RoutedReceiver {
    /// The family of the underlay.
    pub family: Family,
    /// Bytes of the longest packet that gets to its pods; 0 when not known.
    #[serde(default)]
    pub mtu: u32,
}

/// A VTEP, as the node's kernel reports it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct VxlanReceiver {
    /// The family of the underlay.
    pub family: Family,
    /// The network identifier that it takes.
    pub vni: Vni,
    /// The UDP port that it listens on.
    pub port: Port,
    /// The MAC address of the device.
    pub mac: Mac,
    /// MTU of the device in bytes; 0 when not known.
    pub mtu: u32,
    /// Whether it carries the group policy extension.
    pub gbp: bool,
}

/// A tunnel of the agent's own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct UdpReceiver {
    /// The family of the underlay.
    pub family: Family,
    /// The network identifier that it takes.
    pub vni: Vni,
    /// The UDP port that it listens on, and sends from.
    pub port: Port,
    /// What senders have to show.
    pub key: Key,
    /// MTU of the tunnel in bytes.
    pub mtu: u32,
}

/// What the others must know of a lease.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// The subnets behind it.
    pub subnets: Subnets,
    /// Where and how it receives.
    pub endpoint: Endpoint,
}

/// Which lease: of which node in which network.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct LeaseName {
    /// The network.
    pub network: NetworkId,
    /// The node.
    pub node: NodeId,
}

impl Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::names::lease(&self.network, &self.node))
    }
}

/// Counts the instances that have acquired a lease; requests of older ones are
/// refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct Epoch(pub u64);

impl Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One agent's state directory: random, 128 bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(pub u128);

impl FromStr for InstanceId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse_digits(text).map(Self)
    }
}

fn parse_digits(text: &str) -> Result<u128, InvalidValue> {
    let digits = text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit());
    match u128::from_str_radix(text, 16) {
        Ok(raw) if digits => Ok(raw),
        _ => Err(InvalidValue::new(text, "must be 32 hexadecimal digits")),
    }
}

/// The first digits of an id: enough to know it by, too few to show it to somebody as one's own.
fn first_digits(raw: u128) -> String {
    format!("{:04x}…", raw >> 112)
}

impl InstanceId {
    /// Its first digits, for those who must not learn the others.
    #[must_use]
    pub fn first_digits(self) -> String {
        first_digits(self.0)
    }
}

/// One running host: another one after each boot and in each network namespace, 128 bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BootId(pub u128);

impl FromStr for BootId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse_digits(text).map(Self)
    }
}

impl BootId {
    /// Its first digits, for those who must not learn the others.
    #[must_use]
    pub fn first_digits(self) -> String {
        first_digits(self.0)
    }
}

impl Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.to_string()
    }
}

impl Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_one_per_family() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let both = Subnets::new([net("2001:db8:0:1::/64"), net("10.1.2.0/24")]).unwrap();
        assert_eq!(both.to_string(), "10.1.2.0/24, 2001:db8:0:1::/64");
        assert!(Subnets::new([]).is_err());
        assert!(Subnets::new([net("10.1.2.1/24")]).is_err());
        assert!(Subnets::new([net("10.1.2.0/24"), net("10.1.3.0/24")]).is_err());
    }

    #[test]
    fn an_instance_is_32_digits() {
        let id = InstanceId(0x0123);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("+0000000000000000000000000000123".parse::<InstanceId>().is_err());
        assert!("123".parse::<InstanceId>().is_err());
        assert_eq!(BootId(0x0123).to_string().parse(), Ok(BootId(0x0123)));
        assert!("123".parse::<BootId>().is_err());
    }

    #[test]
    fn of_an_id_that_is_somebody_elses_only_the_first_digits_are_told() {
        let raw = 0x0e41_c3a2_0000_0000_0000_0000_0000_0007;
        assert_eq!([InstanceId(raw).first_digits(), BootId(raw).first_digits()], ["0e41…", "0e41…"]);
    }
}
