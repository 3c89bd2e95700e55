//! Letting clients go of a replica that cannot reach its store, if another one can.
//!
//! ```text
//! the store is away ─▶ 15 s ─▶ the others are asked ─┬─ one serves ────▶ clients are asked to go, over 30 s
//!                        ▲                           ├─ one is silent ─▶ the same, once: it may serve
//!                        └────────── 5 s ────────────┴─ nobody serves ─▶ clients stay
//! ```
//!
//! The others are asked every 5 s also while clients are asked to go: when nobody serves any more, the rest stay.
//!
//! Where nobody can write, clients lose nothing by staying: what was known is served, and their watches go on. So notes
//! of the others do not count here: they are from before the store was away.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::colleagues::Refuge;
use crate::registry::Parting;
use crate::service::Shared;
use crate::store::Health;

/// How long an etcd may be away that elects, or is started again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Over what time clients are asked to go.
const OVER: Duration = Duration::from_secs(30);
/// How soon the others are asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest rest after clients have come back here though another replica serves.
const REST: Duration = Duration::from_secs(600);

/// Runs as long as the server.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut health = shared.clerk.store_health();
    while health.wait_for(is_away).await.is_ok() {
        let (mut course, mut wait) = (Course::default(), PATIENCE);
        while stays_away_for(&mut health, wait).await {
            let refuge = shared.colleagues.serving().await;
            let step = course.next(refuge);
            if step.is_news {
                tell(refuge);
            }
            if step.go {
                ask_to_go(&shared, &health, refuge).await;
            }
            wait = step.wait;
        }
        if health.wait_for(|health| !is_away(health)).await.is_err() {
            return;
        }
    }
}

/// What was done while the store is away, for what is done next.
#[derive(Debug, Default)]
struct Course {
    last: Option<Refuge>,
    /// Whether clients were asked to go though nobody had said that it serves.
    guessed: bool,
    /// How often in a row they were asked to go to somebody who serves.
    rounds: u32,
}

/// What is done now, and how long nothing is after it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    is_news: bool,
    go: bool,
    wait: Duration,
}

impl Course {
    fn next(&mut self, refuge: Refuge) -> Step {
        let is_news = self.last.replace(refuge) != Some(refuge);
        let (go, wait) = match refuge {
            Refuge::There => {
                let wait = AGAIN.saturating_mul(2_u32.saturating_pow(self.rounds)).min(REST);
                self.rounds = self.rounds.saturating_add(1);
                (true, wait)
            }
            // Who has come back has found nobody better.
            Refuge::Unknown => (!std::mem::replace(&mut self.guessed, true), AGAIN),
            Refuge::Nowhere => {
                self.rounds = 0;
                (false, AGAIN)
            }
        };
        Step { is_news, go, wait }
    }
}

fn tell(refuge: Refuge) {
    match refuge {
        Refuge::There => warn!("the store cannot be reached: clients are asked to go to another replica"),
        Refuge::Unknown => {
            warn!(
                "the store cannot be reached, and not all other replicas: clients are asked once to go to them"
            );
        }
        Refuge::Nowhere => {
            info!(
                "the store cannot be reached, and no other replica serves: clients stay, and get what is known"
            );
        }
    }
}

/// Whether to go on asking clients to go. Those who are silent may serve, so long as they were silent from the start.
fn still_receives(refuge: Refuge, now: Refuge) -> bool {
    now == Refuge::There || (now, refuge) == (Refuge::Unknown, Refuge::Unknown)
}

/// Asks whoever is here to go, until the store is back, or the others serve no more.
async fn ask_to_go(shared: &Shared, health: &watch::Receiver<Health>, refuge: Refuge) {
    let links: Vec<_> = shared.registry.nodes().iter().map(Arc::downgrade).collect();
    let apart = OVER / u32::try_from(links.len()).unwrap_or(u32::MAX).max(1);
    let mut asked = Instant::now();
    for link in links.iter().map(Weak::upgrade) {
        if asked.elapsed() >= AGAIN {
            if !still_receives(refuge, shared.colleagues.serving().await) {
                return;
            }
            asked = Instant::now();
        }
        if !is_away(&health.borrow()) {
            return;
        }
        if let Some(link) = link {
            link.drain(Parting::CutOff);
        }
        sleep(apart).await;
    }
}

const fn is_away(health: &Health) -> bool {
    matches!(health, Health::Away { .. })
}

async fn stays_away_for(health: &mut watch::Receiver<Health>, time: Duration) -> bool {
    timeout(time, health.wait_for(|health| !is_away(health))).await.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(is_news: bool, go: bool, seconds: u64) -> Step {
        Step { is_news, go, wait: Duration::from_secs(seconds) }
    }

    #[test]
    fn clients_stay_while_nobody_serves_and_go_soon_after_somebody_does() {
        let mut course = Course::default();
        assert_eq!(course.next(Refuge::Nowhere), step(true, false, 5));
        for _ in 0..1000 {
            assert_eq!(course.next(Refuge::Nowhere), step(false, false, 5));
        }
        assert_eq!(course.next(Refuge::There), step(true, true, 5));
    }

    #[test]
    fn who_comes_back_from_those_who_are_silent_stays() {
        let mut course = Course::default();
        assert_eq!(course.next(Refuge::Unknown), step(true, true, 5));
        assert_eq!(course.next(Refuge::Unknown), step(false, false, 5));
        assert_eq!(course.next(Refuge::Nowhere), step(true, false, 5));
        assert_eq!(course.next(Refuge::Unknown), step(true, false, 5), "it was tried before");
        assert_eq!(course.next(Refuge::There), step(true, true, 5));
    }

    #[test]
    fn the_rest_stay_when_nobody_serves_any_more() {
        use Refuge::{Nowhere, There, Unknown};
        for (refuge, now, still) in [
            (There, There, true),
            (There, Unknown, false),
            (There, Nowhere, false),
            (Unknown, There, true),
            (Unknown, Unknown, true),
            (Unknown, Nowhere, false),
        ] {
            assert_eq!(still_receives(refuge, now), still, "{refuge:?}, then {now:?}");
        }
    }

    #[test]
    fn who_comes_back_though_another_serves_is_asked_more_and_more_rarely() {
        let mut course = Course::default();
        let waits: Vec<_> = (0..9).map(|_| course.next(Refuge::There).wait.as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        for _ in 0..100 {
            assert_eq!(course.next(Refuge::There).wait, REST);
        }
    }
}
