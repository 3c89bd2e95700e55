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

use anyhow::Context;
use loden_tests::repairs::Repairs;
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

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_foreign_changes_are_undone_and_nothing_else_is() -> anyhow::Result<()> {
    let mut repairs = Repairs::default();
    for of_one in futures_util::future::try_join_all((0..HOSTS).map(disturb)).await? {
        repairs.extend(of_one);
    }
    repairs.are_prompt("foreign changes")
}

async fn disturb(seed: u64) -> anyhow::Result<Repairs> {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::start(&format!("foreign-{seed}")).await?;
    let mut repairs = Repairs::default();
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
        let took = world.is_as_before(change, Repairs::PATIENCE).await.with_context(told)?;
        repairs.note(format!("seed {seed}, change {number}: {change:?}"), took);
    }
    world.rules_are_as_before()?;
    Ok(repairs)
}
