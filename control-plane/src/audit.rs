//! Who was let in, who was not, and who has changed that: one line of the log each, of target `loden::audit`.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::{info, warn};

/// Refusals that are written per second; whoever is refused may come as often as it likes.
const REFUSALS: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Writes security decisions.
#[derive(Debug)]
pub(crate) struct Audit {
    refusals: DefaultDirectRateLimiter,
    /// Refusals that were not written since the last that was.
    left_out: AtomicU64,
}

impl Default for Audit {
    fn default() -> Self {
        let refusals = RateLimiter::direct(Quota::per_second(REFUSALS));
        Self { refusals, left_out: AtomicU64::new(0) }
    }
}

impl Audit {
    /// Somebody has done something to something.
    pub(crate) fn done(&self, who: &dyn Display, what: &str, to: &str) {
        info!(target: "loden::audit", %who, what, to, decision = "allowed");
    }

    /// Somebody may not do something.
    pub(crate) fn denied(&self, who: &dyn Display, what: &str, reason: &str) {
        if self.refusals.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        warn!(target: "loden::audit", %who, what, decision = "denied", reason, left_out);
    }
}
