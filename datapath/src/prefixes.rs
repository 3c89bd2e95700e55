//! Longest-prefix match for both families.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// What is behind each prefix. A network has few lengths of prefixes, so a look-up tries each, the longest first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefixes<T> {
    lengths: BTreeMap<Reverse<(u8, bool)>, HashMap<IpAddr, T>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { lengths: BTreeMap::new() }
    }
}

impl<T> Prefixes<T> {
    /// Puts something behind a prefix; answers what was there.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let length = Reverse((prefix.prefix_len(), prefix.addr().is_ipv4()));
        self.lengths.entry(length).or_default().insert(prefix.network(), value)
    }

    /// What is behind all of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.lengths.values().flat_map(HashMap::values)
    }

    /// What is behind the longest prefix that an address is in.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let mut of_family =
            self.lengths.iter().filter(|(Reverse((_, is_v4)), _)| *is_v4 == address.is_ipv4());
        of_family.find_map(|(Reverse((length, _)), prefixes)| {
            let prefix = IpNet::new(address, *length).ok()?;
            prefixes.get(&prefix.network())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Few addresses, so that prefixes contain each other.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u8>().prop_map(|bits| Ipv4Addr::new(10, 1, bits >> 4, bits << 4).into()),
            any::<u8>().prop_map(|bits| Ipv6Addr::new(0xfd00, 0, 0, bits.into(), 0, 0, 0, 1).into()),
        ]
    }

    fn prefixes() -> impl Strategy<Value = IpNet> {
        (addresses(), 0_u8..=64).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(most)).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(all in prop::collection::vec(prefixes(), 0..40), address in addresses()) {
            let mut table = Prefixes::default();
            for prefix in &all {
                table.insert(*prefix, *prefix);
            }
            let longest = all.iter().filter(|prefix| prefix.contains(&address)).max_by_key(|prefix| prefix.prefix_len());
            prop_assert_eq!(table.lookup(address), longest);
        }
    }
}
