//! Who has seen which change, and when.
//!
//! A change is told by its address: 198.19.0.0/16 belongs to the driver, and the last two bytes
//! are the change's number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::sync::Notify;

use super::lags::Lags;

/// The change that is no address: the driver is gone.
pub(super) const GONE: u16 = u16::MAX;

/// The address that stands for a change.
pub(super) fn address(change: u16) -> Ipv4Addr {
    let [high, low] = change.to_be_bytes();
    Ipv4Addr::new(198, 19, high, low)
}

/// The change that an address stands for.
pub(super) fn change(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [198, 19, high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// What was seen of the change that is expected.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    expected: Mutex<Option<Expected>>,
    complete: Notify,
    /// While changes come faster than each is waited for.
    lags: RwLock<Option<Arc<Lags>>>,
}

#[derive(Debug)]
struct Expected {
    change: u16,
    members: usize,
    seen: BTreeMap<u16, Instant>,
}

impl Sightings {
    /// From now on this change is looked for, by so many members.
    pub(super) fn expect(&self, change: u16, members: usize) {
        *self.expected() = Some(Expected { change, members, seen: BTreeMap::new() });
    }

    /// From now on, or no longer, it is noted how far everybody is behind.
    pub(super) fn keep_lags(&self, lags: Option<Arc<Lags>>) {
        *self.lags.write().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    /// A member has it, now. Only the first time counts.
    pub(super) fn saw(&self, member: u16, change: u16) {
        if let Some(lags) = &*self.lags.read().unwrap_or_else(PoisonError::into_inner) {
            return lags.saw(member, change);
        }
        let now = Instant::now();
        if let Some(expected) = self.expected().as_mut().filter(|expected| expected.change == change) {
            expected.seen.entry(member).or_insert(now);
            if expected.seen.len() == expected.members {
                self.complete.notify_one();
            }
        }
    }

    /// When each member saw it, once all have.
    pub(super) async fn all(&self, limit: Duration) -> anyhow::Result<Vec<Instant>> {
        let in_time = tokio::time::timeout(limit, self.complete.notified()).await;
        let Some(expected) = self.expected().take() else { bail!("no change was expected") };
        if in_time.is_err() {
            let Expected { change, members, seen } = expected;
            bail!("change {change} was seen by {} of {members} within {limit:?}", seen.len());
        }
        Ok(expected.seen.into_values().collect())
    }

    fn expected(&self) -> MutexGuard<'_, Option<Expected>> {
        // Written whole, so a panic elsewhere cannot have torn it.
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_change_is_told_by_its_address() {
        assert_eq!(change(address(0x1234).into()), Some(0x1234));
        assert_eq!(change("198.18.0.1".parse().unwrap()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_counts_once_and_another_change_does_not() {
        let sightings = Sightings::default();
        sightings.expect(7, 2);
        sightings.saw(1, 7);
        sightings.saw(1, 7);
        sightings.saw(2, 6);
        let error = sightings.all(SOON).await.unwrap_err().to_string();
        assert!(error.contains("seen by 1 of 2"), "{error}");

        sightings.expect(8, 2);
        sightings.saw(1, 8);
        sightings.saw(2, 8);
        assert_eq!(sightings.all(SOON).await.unwrap().len(), 2);
    }
}
