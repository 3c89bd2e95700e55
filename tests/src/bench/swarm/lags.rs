//! How far members are behind while changes come faster than each is waited for.
//!
//! A member that is told of several changes at once has had the older ones for as little as the newest: each change
//! counts for each member, from when it was made until the member has it or a later one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest lag that is told apart, in ms.
const LONGEST: usize = 60_000;

/// The lags of so many members over a row of changes.
#[derive(Debug)]
pub(super) struct Lags {
    first: u16,
    /// When each change was begun to be made.
    begun: Vec<OnceLock<Instant>>,
    /// The newest change that each member has.
    seen: Vec<AtomicU16>,
    /// How many lags there were of each length in ms.
    counts: Vec<AtomicU64>,
}

impl Lags {
    /// Of the `changes` changes after `last`, which everybody has.
    pub(super) fn new(members: usize, last: u16, changes: u16) -> Self {
        Self {
            first: last + 1,
            begun: (0..changes).map(|_| OnceLock::new()).collect(),
            seen: (0..members).map(|_| AtomicU16::new(last)).collect(),
            counts: (0..=LONGEST).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A change is being made, now.
    pub(super) fn begin(&self, change: u16) {
        if let Some(begun) = self.begun.get(usize::from(change.wrapping_sub(self.first))) {
            begun.get_or_init(Instant::now);
        }
    }

    /// A member has this change, now.
    pub(super) fn saw(&self, member: u16, change: u16) {
        let Some(seen) = self.seen.get(usize::from(member)) else { return };
        let before = seen.fetch_max(change, Ordering::Relaxed);
        for change in before.saturating_add(1)..=change {
            let begun = self.begun.get(usize::from(change.wrapping_sub(self.first)));
            if let Some(begun) = begun.and_then(OnceLock::get) {
                let lag = usize::try_from(begun.elapsed().as_millis()).unwrap_or(LONGEST).min(LONGEST);
                self.counts[lag].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many members lack some change.
    pub(super) fn behind(&self) -> usize {
        let last = self.first + (self.begun.len() as u16 - 1);
        self.seen.iter().filter(|seen| seen.load(Ordering::Relaxed) < last).count()
    }

    /// The lag that this part (0 to 1) of all does not exceed.
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = (all as f64 * part).ceil() as u64;
        let mut so_far = 0;
        for (lag, count) in counts.iter().enumerate() {
            so_far += count;
            if so_far >= wanted {
                return Duration::from_millis(lag as u64);
            }
        }
        Duration::from_millis(LONGEST as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_was_skipped_counts_until_a_later_one_is_there() {
        let lags = Lags::new(2, 7, 3);
        for change in 8..=10 {
            lags.begin(change);
        }
        lags.saw(0, 8);
        lags.saw(0, 10);
        lags.saw(0, 9);
        assert_eq!(lags.behind(), 1);
        lags.saw(1, 10);
        assert_eq!(lags.behind(), 0);
        let counted: u64 = lags.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, 6, "three changes for each of two");
        assert!(lags.quantile(0.99) < Duration::from_secs(1));
    }

    #[test]
    fn what_is_none_of_the_row_does_not_count() {
        let lags = Lags::new(1, 7, 1);
        lags.saw(0, 7);
        lags.saw(5, 8);
        assert_eq!((lags.behind(), lags.quantile(1.0)), (1, Duration::ZERO));
    }
}
