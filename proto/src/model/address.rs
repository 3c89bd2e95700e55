//! Addresses and small numbers of the link layer.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::InvalidValue;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a prefix.
    #[must_use]
    pub const fn of_net(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Bits of an address: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Bytes that VXLAN adds to a packet on an underlay of this family: outer
    /// IP, UDP and VXLAN headers and the inner Ethernet header (RFC 7348 §5).
    #[must_use]
    pub const fn vxlan_overhead(self) -> u32 {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }

    /// Bytes that the UDP tunnel adds to a packet on an underlay of this family: outer IP, UDP, and a header of
    /// 12 bytes.
    #[must_use]
    pub const fn udp_overhead(self) -> u32 {
        match self {
            Self::V4 => 40,
            Self::V6 => 60,
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A VXLAN network identifier, 24 bits (RFC 7348 §5), never 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The lowest.
    pub const MIN: Self = Self(1);
    /// The highest.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidValue;

    fn try_from(raw: u32) -> Result<Self, InvalidValue> {
        if (Self::MIN.0..=Self::MAX.0).contains(&raw) {
            Ok(Self(raw))
        } else {
            Err(InvalidValue::new(raw, "must be a VNI, 1 to 16777215"))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A UDP port, never 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Port(u16);

impl Port {
    /// VXLAN in the Linux kernel, older than IANA's 4789, and flannel's.
    pub const VXLAN: Self = Self(8472);
    /// The UDP tunnel's, as that of flannel's udp.
    pub const UDP: Self = Self(8285);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Port {
    type Error = InvalidValue;

    fn try_from(raw: u32) -> Result<Self, InvalidValue> {
        match u16::try_from(raw) {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(InvalidValue::new(raw, "must be a UDP port, 1 to 65535")),
        }
    }
}

impl From<Port> for u32 {
    fn from(port: Port) -> Self {
        port.0.into()
    }
}

impl Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An MTU of the inner network, in bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u32);

impl Mtu {
    /// What every IPv4 host must take (RFC 791 §3.1).
    pub const MIN: u32 = 576;
    /// What every IPv6 link must carry (RFC 8200 §5).
    pub const MIN_V6: u32 = 1280;
    /// The largest IP packet less the overhead of VXLAN on IPv4.
    pub const MAX: u32 = 65_535 - Family::V4.vxlan_overhead();

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidValue;

    fn try_from(raw: u32) -> Result<Self, InvalidValue> {
        if (Self::MIN..=Self::MAX).contains(&raw) {
            Ok(Self(raw))
        } else {
            Err(InvalidValue::new(raw, "must be an MTU, 576 to 65485 bytes"))
        }
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.0
    }
}

impl Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unicast MAC address (IEEE 802), never zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address as octets in wire order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The IPv6 link-local address made from this MAC (modified EUI-64,
    /// RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl TryFrom<[u8; 6]> for Mac {
    type Error = InvalidValue;

    fn try_from(octets: [u8; 6]) -> Result<Self, InvalidValue> {
        let mac = Self(octets);
        if octets == [0; 6] {
            Err(InvalidValue::new(mac, "is the zero MAC address"))
        } else if octets[0] & 1 != 0 {
            Err(InvalidValue::new(mac, "is a multicast MAC address; it must be unicast"))
        } else {
            Ok(mac)
        }
    }
}

impl FromStr for Mac {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let malformed = || InvalidValue::new(text, "must be a MAC address such as 02:00:5e:10:00:01");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(malformed)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        octets.try_into()
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Reads an address that others can send to over an underlay.
///
/// Loopback is let through here: only the server knows whether it is allowed.
///
/// # Errors
/// When the text is no address of this kind, or it is unspecified, multicast,
/// broadcast, or IPv6 link-local.
#[cfg(feature = "grpc")]
pub(crate) fn parse_underlay<A: FromStr + Into<IpAddr> + Copy>(
    text: &str,
    family: Family,
) -> Result<A, InvalidValue> {
    let address: A =
        text.parse().map_err(|_| InvalidValue::new(text, format!("must be an {family} address")))?;
    match check_underlay(address.into()) {
        Some(rule) => Err(InvalidValue::new(text, rule)),
        None => Ok(address),
    }
}

/// The rule that an underlay address breaks.
#[must_use]
pub fn check_underlay(address: IpAddr) -> Option<&'static str> {
    let link_local_v6 = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    // RFC 1122 §3.2.1.3: never the destination of a packet.
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if address.is_unspecified() {
        Some("is the unspecified address; peers cannot send to it")
    } else if this_network {
        Some("is an address of \"this network\", 0.0.0.0/8; peers cannot send to it")
    } else if address.is_multicast() {
        Some("is a multicast address; it must be unicast")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("is the broadcast address; it must be unicast")
    } else if link_local_v6 {
        Some("is a link-local address; peers cannot send to it without an interface")
    } else if mapped {
        Some("is an IPv4-mapped address; send it as IPv4")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert!(Vni::try_from(0).is_err());
        assert!(Vni::try_from(1 << 24).is_err());
        assert_eq!(Vni::try_from((1 << 24) - 1).map(Vni::get), Ok(16_777_215));
    }

    #[test]
    fn ports_do_not_wrap() {
        for raw in [0, 65_536, 65_558, 70_000, u32::MAX] {
            assert!(Port::try_from(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn only_unicast_mac_addresses_exist() {
        assert!("00:00:00:00:00:00".parse::<Mac>().is_err());
        assert!("01:00:5e:00:00:01".parse::<Mac>().is_err());
        assert!("ff:ff:ff:ff:ff:ff".parse::<Mac>().is_err());
        for text in
            ["", "02:00", "02:00:00:00:00:00:00", "2:0:0:0:0:1", "02-00-00-00-00-01", "0x:00:00:00:00:01"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        let mac: Mac = "02:00:5E:10:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:01");
        assert_eq!(mac.link_local().to_string(), "fe80::5eff:fe10:1");
    }

    #[test]
    fn an_underlay_address_is_one_that_peers_can_send_to() {
        for text in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "2001:db8::1"] {
            let v4 = parse_underlay::<Ipv4Addr>(text, Family::V4);
            assert!(v4.is_err(), "{text}");
        }
        for text in ["::", "ff02::1", "fe80::1", "::ffff:192.0.2.1", "192.0.2.1"] {
            assert!(parse_underlay::<Ipv6Addr>(text, Family::V6).is_err(), "{text}");
        }
        assert!(parse_underlay::<Ipv4Addr>("127.0.0.1", Family::V4).is_ok());
    }
}
