//! A foreign hand in the kernel: whatever it does to what is ours is undone, and nothing else is touched.
//!
//! ```text
//!  seed ─▶ change ─▶ ip, bridge, nft ─▶ the kernel ─▶ everything of ours as before, within its time
//!                                                  └▶ everything else as before, always
//! ```
//!
//! Several hosts are disturbed side by side, each by changes of its own seed. The agents are real; the control
//! plane only tells them their peers.

#![cfg(test)]

mod change;
mod world;

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::change::Change;
use crate::world::World;

/// Hosts that are disturbed at a time.
const HOSTS: u64 = 8;
/// Changes of each.
const CHANGES: usize = 250;
/// The change that some agents are made to miss the notification of.
const DEAF: usize = 100;
/// Every so many hosts have such an agent.
const DEAF_HOSTS: u64 = 4;
/// How long the slowest may take on a machine that is busy with other tests. A second is what is promised
/// on one that is not; what was seen is printed.
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_foreign_changes_are_undone_and_nothing_else_is() -> anyhow::Result<()> {
    let mut took = futures_util::future::try_join_all((0..HOSTS).map(disturb)).await?.concat();
    took.sort();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!("{} changes undone: p50 {:?}, p99 {:?}, last {:?}", took.len(), at(50), at(99), at(100));
    Ok(())
}

async fn disturb(seed: u64) -> anyhow::Result<Vec<Duration>> {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::start(&format!("foreign-{seed}")).await?;
    let mut took = Vec::new();
    for number in 0..CHANGES {
        let change = Change::random(&mut random);
        let told = || format!("seed {seed}, change {number}: {change:?}; the agent: {}", world.last_words());
        if number == DEAF && seed.is_multiple_of(DEAF_HOSTS) {
            world.deafen().await.with_context(told)?;
            world.change(change).await.with_context(told)?;
            world.hear().with_context(told)?;
        } else {
            world.change(change).await.with_context(told)?;
        }
        took.push(world.is_as_before(change, LIMIT).await.with_context(told)?);
    }
    world.rules_are_as_before()?;
    ensure!(took.len() == CHANGES, "{} changes", took.len());
    Ok(took)
}
