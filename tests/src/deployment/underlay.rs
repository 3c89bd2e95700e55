//! The addresses of the segment that all hosts share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The one family that hosts have addresses of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Underlay {
    /// 192.0.2.0/24, TEST-NET-1 (RFC 5737).
    V4,
    /// 2001:db8::/64, for documentation (RFC 3849).
    V6,
}

impl Underlay {
    /// The address of the host with this number: 192.0.2.`number`/24 or 2001:db8::`number`/64.
    #[must_use]
    pub fn address(self, number: u8) -> IpNet {
        // Both prefix lengths are valid for every address of their families.
        match self {
            Self::V4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), 24),
            Self::V6 => {
                let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into());
                IpNet::new_assert(IpAddr::V6(address), 64)
            }
        }
    }
}
