//! Where connections come from, and how many each source has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where connections come from: an IPv4 address, or an IPv6 /64, of which one host has all addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// Counts the connections of each source; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<Source, usize>>>);

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    source: Source,
}

impl Shares {
    /// One more connection of a source, unless it has `most` already.
    pub(crate) fn take(&self, source: Source, most: usize) -> Option<Share> {
        let mut shares = self.lock();
        let taken = shares.entry(source).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        drop(shares);
        Some(Share { shares: self.clone(), source })
    }

    /// A panic elsewhere leaves the counts whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.lock();
        if let Some(taken) = shares.get_mut(&self.source) {
            *taken -= 1;
            if *taken == 0 {
                shares.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn addresses_of_one_host_are_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn a_source_has_so_many_and_others_have_their_own() {
        let shares = Shares::default();
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = shares.take(one, 2).unwrap();
        let second = shares.take(one, 2).unwrap();
        assert!(shares.take(one, 2).is_none() && shares.take(other, 2).is_some());
        drop(first);
        assert!(shares.take(one, 2).is_some());
        drop(second);
        assert!(shares.lock().is_empty(), "nobody is remembered");
    }
}
