//! How often certificates are asked for: each costs a signature and a place in the log.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};
use loden_process::source::Source;
use loden_proto::names::NodeId;

/// Of one source: a whole fleet behind one address at once, then as fast as hosts are made.
const OF_SOURCE: [NonZeroU32; 2] = [NonZeroU32::new(20).unwrap(), NonZeroU32::new(2_000).unwrap()];
/// Of all.
const OF_ALL: [NonZeroU32; 2] = [NonZeroU32::new(500).unwrap(), NonZeroU32::new(5_000).unwrap()];
/// Of one node that renews.
const OF_NODE: [NonZeroU32; 2] = [NonZeroU32::new(2).unwrap(), NonZeroU32::new(20).unwrap()];

/// Counts who asks.
#[derive(Debug)]
pub(crate) struct Limits {
    clock: DefaultClock,
    all: DefaultDirectRateLimiter,
    sources: DefaultKeyedRateLimiter<Source>,
    nodes: DefaultKeyedRateLimiter<NodeId>,
}

/// So many per second, after a burst.
fn quota([per_second, burst]: [NonZeroU32; 2]) -> Quota {
    Quota::per_second(per_second).allow_burst(burst)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clock: DefaultClock::default(),
            all: RateLimiter::direct(quota(OF_ALL)),
            sources: RateLimiter::keyed(quota(OF_SOURCE)),
            nodes: RateLimiter::keyed(quota(OF_NODE)),
        }
    }
}

impl Limits {
    /// A host wants to join.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn join(&self, from: SocketAddr) -> Result<(), Duration> {
        let now = self.clock.now();
        let wait = |not: NotUntil<_>| not.wait_time_from(now);
        // First its own: what it has too much of is nobody else's.
        self.sources.check_key(&Source::from(from.ip())).map_err(wait)?;
        self.all.check().map_err(wait)
    }

    /// A node wants another certificate.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn renew(&self, node: &NodeId) -> Result<(), Duration> {
        self.nodes.check_key(node).map_err(|not| not.wait_time_from(self.clock.now()))
    }

    /// Forgets those who have not asked for long.
    pub(crate) fn forget(&self) {
        self.sources.retain_recent();
        self.nodes.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_waits_and_nobody_else() {
        let limits = Limits::default();
        let from = |host: &str| format!("{host}:1").parse().unwrap();
        let refused = (0..5_000).find_map(|_| limits.join(from("192.0.2.1")).err()).unwrap();
        assert!(refused <= Duration::from_millis(50), "{refused:?}");
        assert!(limits.join(from("192.0.2.2")).is_ok());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!((0..100).any(|_| limits.renew(&a).is_err()));
        assert!(limits.renew(&b).is_ok());
    }
}
