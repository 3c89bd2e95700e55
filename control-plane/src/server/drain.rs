//! Letting clients go: told one after the other, so that they do not all come to the other replicas at once.
//!
//! ```text
//! not ready ─▶ notice ─▶ nobody is accepted any more ─▶ told, over the window ─▶ grace ─▶ the rest is reset
//!              whoever comes is served,                  per connection: GOAWAY, its watches end,
//!              while balancers notice                    its calls that are under way are finished
//! ```
//!
//! Where no other replica serves there is nobody to notice and nowhere to go: each is served as long as that can be,
//! and all are told in a moment.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::registry::{EndReason, Link, Parting};
use crate::service::Shared;

/// How long whoever comes is still served, at most, and in which part of the window: a balancer that looks at
/// `/readyz` twice a second has noticed by then.
const NOTICE: (Duration, u32) = (Duration::from_secs(1), 5);
/// Time between two clients that have nowhere to go, unless there are so many that it would take too long.
const APART: Duration = Duration::from_micros(500);
/// How long it takes at most until all of those have been told.
const ALONE: Duration = Duration::from_secs(2);
/// How long told clients may still take: a call that is under way, for instance.
const GRACE: Duration = Duration::from_secs(5);

/// When whom is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timetable {
    /// What `--drain` says.
    pub(super) window: Duration,
    /// Whether another replica serves.
    pub(super) elsewhere: bool,
}

impl Timetable {
    /// How long whoever comes is still served.
    pub(super) fn notice(self) -> Duration {
        let (most, part) = NOTICE;
        if self.elsewhere { most.min(self.window / part) } else { Duration::ZERO }
    }

    /// When after the notice one of so many clients is told.
    fn told(self, index: usize, clients: usize) -> Duration {
        let count = u32::try_from(clients).unwrap_or(u32::MAX);
        let over = match self.elsewhere {
            true => self.window - self.notice(),
            false => APART.saturating_mul(count).min(ALONE).min(self.window),
        };
        over.mul_f64(index as f64 / clients.max(1) as f64)
    }
}

/// A server that lets its clients go.
#[derive(Clone, Copy)]
pub(super) struct Drain<'a> {
    pub(super) shared: &'a Shared,
    pub(super) accepting: &'a CancellationToken,
    pub(super) connections: &'a TaskTracker,
    pub(super) times: Timetable,
}

impl Drain<'_> {
    /// Lets all of them go. Until `noticed` whoever comes is served.
    pub(super) async fn run(self, noticed: impl Future<Output = ()>) {
        let registry = &self.shared.registry;
        self.shared.leaving.cancel();
        noticed.await;
        self.accepting.cancel();
        let why = Parting::ShutDown { elsewhere: self.times.elsewhere };
        let links = registry.begin_drain(why);
        self.tell(&links, why).await;
        self.connections.close();
        if timeout(GRACE, self.connections.wait()).await.is_err() {
            warn!(
                connections = registry.len(),
                "clients have not gone by themselves; their connections are reset"
            );
            registry.end_all(&EndReason::Drained);
            self.connections.wait().await;
        }
        info!(clients = links.len(), "drained");
    }

    async fn tell(self, links: &[Weak<Link>], why: Parting) {
        let begin = Instant::now();
        for (index, link) in links.iter().enumerate() {
            // Nobody waits for who has gone by itself.
            if link.strong_count() == 0 {
                continue;
            }
            sleep_until(begin + self.times.told(index, links.len())).await;
            if let Some(link) = link.upgrade() {
                link.drain(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clients_with_somewhere_to_go_are_spread_over_what_the_notice_leaves() {
        for (window, notice) in [(5 * SECOND, SECOND), (600 * SECOND, SECOND), (SECOND, SECOND / 5)] {
            let times = Timetable { window, elsewhere: true };
            assert_eq!(times.notice(), notice);
            assert_eq!(times.told(0, 4), Duration::ZERO);
            assert_eq!(times.told(1, 4), (window - notice) / 4);
            assert_eq!(times.told(3, 4), (window - notice) * 3 / 4);
        }
    }

    #[test]
    fn without_a_window_all_are_told_at_once() {
        for elsewhere in [true, false] {
            let times = Timetable { window: Duration::ZERO, elsewhere };
            assert_eq!((times.notice(), times.told(999, 1000)), (Duration::ZERO, Duration::ZERO));
        }
    }

    #[test]
    fn clients_with_nowhere_to_go_are_told_in_a_moment() {
        let times = Timetable { window: 600 * SECOND, elsewhere: false };
        assert_eq!(times.notice(), Duration::ZERO);
        assert_eq!(times.told(9, 10), 9 * APART);
        assert!(times.told(99_999, 100_000) < ALONE);
    }
}
