//! The short time after a start in which nobody new gets a slot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Whether the server settles; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Settling(Arc<Mutex<Option<Instant>>>);

impl Settling {
    /// Settles until then.
    pub fn begin(&self, until: Instant) {
        self.set(Some(until));
    }

    /// Settles no more.
    pub fn end(&self) {
        self.set(None);
    }

    /// For how long it still settles.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let until = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(until.saturating_duration_since(now)).filter(|remaining| !remaining.is_zero())
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settling_ends_by_time_or_by_being_told() {
        let (settling, now) = (Settling::default(), Instant::now());
        assert_eq!(settling.remaining(now), None);
        settling.begin(now + Duration::from_secs(15));
        assert_eq!(settling.clone().remaining(now), Some(Duration::from_secs(15)));
        assert_eq!(settling.remaining(now + Duration::from_secs(15)), None);
        settling.end();
        assert_eq!(settling.remaining(now), None);
    }
}
