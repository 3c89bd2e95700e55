//! Notices that the time of day was set: the grace of every lease begins anew then.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How far the two clocks may drift apart between two looks. Time services slew by at most 0.05 %; this
/// is for the time between reading the one and the other on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time of day.
    pub wall: SystemTime,
    /// The time since the server's host began, without sleep.
    pub monotonic: Instant,
}

/// Compares the clocks from look to look.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    last: Option<Now>,
    steady_since: Option<Instant>,
}

impl Clocks {
    /// Since when both have gone alike.
    pub(super) fn look(&mut self, now: Now) -> Instant {
        let alike = self.last.is_some_and(|last| {
            let elapsed = now.monotonic.saturating_duration_since(last.monotonic);
            // A clock that was set back makes nothing expire.
            let by_wall = now.wall.duration_since(last.wall).unwrap_or_default();
            by_wall <= elapsed + TOLERANCE
        });
        self.last = Some(now);
        if !alike {
            self.steady_since = None;
        }
        *self.steady_since.get_or_insert(now.monotonic)
    }
}
