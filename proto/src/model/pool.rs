//! A CIDR cut into slots of one length.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Family;
use crate::InvalidValue;

/// A CIDR cut into slots of one prefix length. The first slot is never given
/// out, as in flannel: its base address is the pool's own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "RawPool", into = "RawPool")]
pub struct Pool {
    cidr: IpNet,
    slot_len: u8,
}

impl Pool {
    /// Bits between pool and slot at least: four slots.
    const MIN_BITS: u8 = 2;
    /// Bits between pool and slot at most: slots are numbered by `u32`.
    const MAX_BITS: u8 = 31;

    /// A pool with an explicit or the default slot length.
    ///
    /// # Errors
    /// When host bits are set, addresses of the CIDR are not for hosts, or the
    /// slot length is outside its range.
    pub fn new(cidr: IpNet, slot_len: Option<u8>) -> Result<Self, InvalidValue> {
        if cidr != cidr.trunc() {
            let rule = format!("has host bits set; the network is {}", cidr.trunc());
            return Err(InvalidValue::new(cidr, rule).at("cidr"));
        }
        if let Some(foreign) = not_for_hosts(cidr) {
            let rule = format!("overlaps {foreign}, which is not for hosts");
            return Err(InvalidValue::new(cidr, rule).at("cidr"));
        }
        let (longest, usual) = match cidr {
            IpNet::V4(_) => (30, 24),
            IpNet::V6(_) => (126, 64),
        };
        let shortest = cidr.prefix_len() + Self::MIN_BITS;
        if shortest > longest {
            let rule = format!("is too small for four slots of at most /{longest}");
            return Err(InvalidValue::new(cidr, rule).at("cidr"));
        }
        let longest = longest.min(cidr.prefix_len() + Self::MAX_BITS);
        let slot_len = slot_len.unwrap_or_else(|| usual.clamp(shortest, longest));
        if !(shortest..=longest).contains(&slot_len) {
            let rule = format!("must be {shortest} to {longest} in the pool {cidr}");
            return Err(InvalidValue::new(slot_len, rule).at("node_prefix_len"));
        }
        Ok(Self { cidr, slot_len })
    }

    /// The whole pool.
    #[must_use]
    pub const fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Prefix length of a slot.
    #[must_use]
    pub const fn slot_len(&self) -> u8 {
        self.slot_len
    }

    /// The pool's address family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of_net(self.cidr)
    }

    /// How many slots there are, the first one included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        1 << (self.slot_len - self.cidr.prefix_len())
    }

    /// The slot of an index below [`Self::slots`].
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<IpNet> {
        if index >= self.slots() {
            return None;
        }
        let shift = self.family().bits() - self.slot_len;
        let net = match self.cidr {
            IpNet::V4(cidr) => {
                let base = u32::from(cidr.network()) | index << shift;
                Ipv4Net::new(Ipv4Addr::from(base), self.slot_len).map(IpNet::V4)
            }
            IpNet::V6(cidr) => {
                let base = u128::from(cidr.network()) | u128::from(index) << shift;
                Ipv6Net::new(Ipv6Addr::from(base), self.slot_len).map(IpNet::V6)
            }
        };
        net.ok()
    }

    /// The index of a slot of this pool; `None` for any other prefix.
    #[must_use]
    pub fn index(&self, slot: IpNet) -> Option<u32> {
        if slot.prefix_len() != self.slot_len || !self.cidr.contains(&slot) || slot != slot.trunc() {
            return None;
        }
        let shift = self.family().bits() - self.slot_len;
        let offset = match (slot.network(), self.cidr.network()) {
            (IpAddr::V4(slot), IpAddr::V4(base)) => u128::from(u32::from(slot) - u32::from(base)),
            (IpAddr::V6(slot), IpAddr::V6(base)) => u128::from(slot) - u128::from(base),
            _ => return None,
        };
        u32::try_from(offset >> shift).ok()
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: IpNet) -> bool {
        self.cidr.contains(&other) || other.contains(&self.cidr)
    }
}

impl Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in /{}", self.cidr, self.slot_len)
    }
}

#[derive(Deserialize, Serialize)]
struct RawPool {
    cidr: IpNet,
    slot_len: u8,
}

impl TryFrom<RawPool> for Pool {
    type Error = InvalidValue;

    fn try_from(raw: RawPool) -> Result<Self, InvalidValue> {
        Self::new(raw.cidr, Some(raw.slot_len))
    }
}

impl From<Pool> for RawPool {
    fn from(pool: Pool) -> Self {
        Self { cidr: pool.cidr, slot_len: pool.slot_len }
    }
}

/// The special range that a CIDR shares addresses with (RFC 6890).
fn not_for_hosts(cidr: IpNet) -> Option<&'static str> {
    const FOREIGN: [&str; 8] = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/127",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    ];
    FOREIGN.into_iter().find(|text| {
        text.parse::<IpNet>().is_ok_and(|foreign| foreign.contains(&cidr) || cidr.contains(&foreign))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(cidr: &str, slot_len: Option<u8>) -> Result<Pool, InvalidValue> {
        Pool::new(cidr.parse().unwrap(), slot_len)
    }

    #[test]
    fn the_defaults_are_flannels() {
        let len = |cidr| pool(cidr, None).map(|pool| pool.slot_len());
        assert_eq!(len("10.244.0.0/16"), Ok(24));
        assert_eq!(len("10.244.0.0/22"), Ok(24));
        assert_eq!(len("10.244.0.0/23"), Ok(25));
        assert_eq!(len("10.244.0.0/28"), Ok(30));
        assert!(len("10.244.0.0/29").is_err());
        assert_eq!(len("2001:db8::/48"), Ok(64));
        assert_eq!(len("2001:db8::/124"), Ok(126));
    }

    #[test]
    fn errors_name_the_field() {
        let field = |cidr, slot_len| pool(cidr, slot_len).unwrap_err().field;
        assert_eq!(field("10.244.0.1/16", None), "cidr");
        assert_eq!(field("10.244.0.0/16", Some(17)), "node_prefix_len");
        assert_eq!(field("10.244.0.0/16", Some(31)), "node_prefix_len");
        assert_eq!(field("127.0.0.0/16", None), "cidr");
        assert_eq!(field("0.0.0.0/0", None), "cidr");
        assert_eq!(field("224.0.0.0/8", None), "cidr");
        assert_eq!(field("fe80::/32", None), "cidr");
    }

    #[test]
    fn a_foreign_prefix_has_no_index() {
        let pool = pool("10.244.0.0/16", None).unwrap();
        for text in ["10.244.0.0/16", "10.245.1.0/24", "10.244.1.0/25", "10.244.1.1/24", "2001:db8::/24"] {
            assert_eq!(pool.index(text.parse().unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn slots_and_indexes_are_inverse(net in any::<u128>(), len in 4u8..100, bits in 2u8..20, index in any::<u32>()) {
            let base = Ipv6Addr::from((net >> 4) | (1 << 125));
            let cidr = IpNet::V6(Ipv6Net::new(base, len).unwrap().trunc());
            let pool = Pool::new(cidr, Some(len + bits)).unwrap();
            let index = index % pool.slots();
            let slot = pool.slot(index).unwrap();
            prop_assert!(cidr.contains(&slot));
            prop_assert_eq!(pool.index(slot), Some(index));
        }
    }
}
