//! Ends leases whose nodes are gone, and renews those whose nodes are here.
//!
//! ```text
//!  every few seconds:  leases, clocks, streams ──▶ Expiry::look ──▶ due ──▶ with no other replica? ──▶ ExpireLease,
//!                                                            └────▶ renew ──▶ RenewLease                    guarded
//! ```
//!
//! A lease ends only when its time on disk has passed *and* this server has followed the store, by its own
//! monotonic clock, for a grace since the lease last changed. A node that is alive renews within that time:
//! so neither a restart nor a clock that is set ends the lease of a live node. Nor does a clock that is ahead, where
//! there are several control planes: whichever has the node says so (`elsewhere`).

mod clocks;
mod elsewhere;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use loden_proto::model::LeaseName;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clerk::{ClerkHandle, SubmitError, WallClock};
use crate::ledger::{Command, Ledger};
use crate::store::Health;
use crate::watch::Streams;

use clocks::Clocks;
pub use clocks::Now;
pub use elsewhere::Others;
use elsewhere::{Questions, Verdict};

/// The longest grace.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);
/// How often the ledger is told to forget what is over.
const TIDY: Duration = Duration::from_secs(60);
/// Commands in flight at once.
const AT_ONCE: usize = 64;

/// A lease as far as its end is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiring {
    /// Whose.
    pub name: LeaseName,
    /// The time on disk.
    pub expires: SystemTime,
    /// Of its last change.
    pub revision: u64,
    /// How long a lease of its network lives.
    pub ttl: Duration,
    /// Whether its node streams.
    pub streams: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// Leases to end, with the revision that must still be their last.
    pub expire: Vec<(LeaseName, u64)>,
    /// Leases to renew.
    pub renew: Vec<LeaseName>,
}

/// Remembers since when each lease is as it is.
#[derive(Debug, Default)]
pub struct Expiry {
    clocks: Clocks,
    seen: HashMap<LeaseName, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    revision: u64,
    since: Instant,
}

impl Expiry {
    /// Looks at all leases that can expire. The first look begins every grace.
    pub fn look(&mut self, now: Now, leases: impl IntoIterator<Item = Expiring>) -> Due {
        let followed_since = self.clocks.look(now);
        let mut seen = HashMap::with_capacity(self.seen.len());
        let mut due = Due::default();
        for lease in leases {
            let known = self.seen.get(&lease.name).filter(|known| known.revision == lease.revision);
            let since = known.map_or(now.monotonic, |known| known.since);
            seen.insert(lease.name.clone(), Seen { revision: lease.revision, since });
            let followed = now.monotonic.saturating_duration_since(since.max(followed_since));
            if lease.streams {
                if wants_renewal(&lease, now.wall) {
                    due.renew.push(lease.name);
                }
            } else if lease.expires <= now.wall && followed >= lease.ttl.min(LONGEST_GRACE) {
                due.expire.push((lease.name, lease.revision));
            }
        }
        self.seen = seen;
        due
    }

    /// Begins the grace of leases anew whose nodes were seen.
    fn spare(&mut self, leases: &[LeaseName], now: Instant) {
        for lease in leases {
            if let Some(seen) = self.seen.get_mut(lease) {
                seen.since = now;
            }
        }
    }
}

/// Whether a third of its life has passed since the last renewal, less up to a twelfth of its life that
/// depends on its name: nodes that joined together renew apart.
///
/// A renewal reaches 1.25 lives ahead on disk, so after a third of a life 11/12 of one are left. While
/// more than a whole life is left a renewal would change nothing, and be wanted again at the next look.
fn wants_renewal(lease: &Expiring, now: SystemTime) -> bool {
    let mut hasher = DefaultHasher::new();
    lease.name.hash(&mut hasher);
    let spread = (hasher.finish() % 1024) as u32;
    let left = lease.expires.duration_since(now).unwrap_or_default();
    left <= lease.ttl * 11 / 12 + lease.ttl / 12 / 1024 * spread
}

/// Looks every `period` and submits what is due, and has the ledger tidied. No lease ends whose node one of the others
/// has, or may have. Runs as long as the server.
pub async fn run(
    clerk: ClerkHandle,
    streams: Streams,
    lease_ttl: Duration,
    now: WallClock,
    period: Duration,
    others: impl Others,
) {
    let (mut expiry, mut questions) = (Expiry::default(), Questions::default());
    let mut tidied: Option<Instant> = None;
    let health = clerk.store_health();
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if *health.borrow() != Health::Healthy {
            // Nothing would be taken, and of what others have renewed meanwhile nothing is known.
            (expiry, questions) = (Expiry::default(), Questions::default());
            continue;
        }
        let leases = clerk.read(|ledger| expiring(ledger, &streams, lease_ttl));
        let monotonic = Instant::now();
        let due = expiry.look(Now { wall: now(), monotonic }, leases);
        if tidied.is_none_or(|tidied| monotonic.duration_since(tidied) >= TIDY) {
            tidied = Some(monotonic);
            submit(&clerk, Command::Tidy).await;
        }
        submit_all(&clerk, due.renew.into_iter().map(|name| Command::RenewLease { name, epoch: None })).await;
        let verdict = if others.is_none() {
            Verdict { expire: due.expire, alive: Vec::new() }
        } else {
            questions.ask(&others, due.expire).await
        };
        expiry.spare(&verdict.alive, monotonic);
        let expire = verdict.expire.into_iter();
        submit_all(&clerk, expire.map(|(name, revision)| Command::ExpireLease { name, revision })).await;
    }
}

async fn submit_all(clerk: &ClerkHandle, commands: impl Iterator<Item = Command> + Send) {
    stream::iter(commands).for_each_concurrent(AT_ONCE, |command| submit(clerk, command)).await;
}

fn expiring(ledger: &Ledger, streams: &Streams, lease_ttl: Duration) -> Vec<Expiring> {
    let leases = ledger.lease_expiries().map(|(name, expires, revision)| Expiring {
        name: name.clone(),
        expires,
        revision,
        ttl: ledger.network(&name.network).and_then(|network| network.lease_ttl).unwrap_or(lease_ttl),
        streams: streams.contains(name),
    });
    leases.collect()
}

async fn submit(clerk: &ClerkHandle, command: Command) {
    let what = format!("{command:?}");
    match clerk.submit(command).await {
        Ok(_) => tracing::debug!(what, "done"),
        // It changed meanwhile; the next look sees how.
        Err(SubmitError::Refused(refusal)) => tracing::debug!(what, %refusal, "not any more"),
        Err(error) => tracing::warn!(what, %error, "cannot be done now"),
    }
}
