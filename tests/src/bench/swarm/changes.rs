//! One member's changes, and how long they take to reach all others: one after the other, or many a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Answer;
use super::lags::Lags;
use super::sightings::Sightings;

/// How long everybody may take to see a change.
const SEEN: Duration = Duration::from_secs(60);
/// How often is looked whether everybody has seen the last of many.
const LOOK: Duration = Duration::from_millis(20);

/// Whose address changes.
pub(super) trait Mover {
    /// The change that was made last.
    fn change(&self) -> u16;

    /// Makes the next one.
    async fn move_on(&mut self) -> anyhow::Result<()>;
}

/// Makes changes one after the other, each once all `members` have seen the last; answers what each took to
/// reach each member, in ms. The clock starts before the call that makes the change, so the commit itself is in it.
pub(super) async fn one_by_one(
    mover: &mut impl Mover,
    sightings: &Sightings,
    members: usize,
    (count, pause): (u16, Duration),
) -> anyhow::Result<Answer> {
    let mut latencies = Vec::new();
    for _ in 0..count {
        sleep(pause).await;
        sightings.expect(mover.change() + 1, members);
        let begin = Instant::now();
        mover.move_on().await?;
        let seen = sightings.all(SEEN).await?;
        latencies.extend(seen.into_iter().map(|at| (at - begin).as_secs_f64() * 1e3));
    }
    Ok(Answer::Changed { latencies })
}

/// Makes changes one every `period`, whoever has seen them; answers how far everybody was behind.
pub(super) async fn steadily(
    mover: &mut impl Mover,
    sightings: &Sightings,
    members: usize,
    (count, period): (u16, Duration),
) -> anyhow::Result<Answer> {
    let lags = Arc::new(Lags::new(members, mover.change(), count));
    sightings.keep_lags(Some(Arc::clone(&lags)));
    let begin = Instant::now();
    let mut ticks = interval(period);
    // What is late is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..count {
        ticks.tick().await;
        lags.begin(mover.change() + 1);
        mover.move_on().await?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let last = Instant::now();
    while lags.behind() > 0 {
        if last.elapsed() > SEEN {
            bail!("{} of {members} have not seen the last of {count} changes within {SEEN:?}", lags.behind());
        }
        sleep(LOOK).await;
    }
    sightings.keep_lags(None);
    let millis = |part| lags.quantile(part).as_secs_f64() * 1e3;
    Ok(Answer::Lagged { seconds, p50: millis(0.5), p99: millis(0.99) })
}
