//! `kill -9` of the real control plane in the middle of a storm of writes, two hundred times over.
//!
//! ```text
//!  start ─▶ compare with the witness ─▶ storm: 64 leases and 4 networks at once ─▶ kill -9 ─▶ again
//!             ▲                            │ acknowledged, or still open
//!             └────────── Witness ◀────────┘
//! ```
//!
//! An acknowledged write must be there after the next start. One that was still open may be there or not,
//! but nothing in between.

#![cfg(test)]

mod lane;
mod storm;
mod watcher;
mod witness;

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_tests::client::{self, Identities};
use loden_tests::deployment::Deployment;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::storm::{Figures, Storm};
use crate::watcher::Watcher;
use crate::witness::{Item, Witness};

const ROUNDS: usize = 200;
/// Repeats the choices of an earlier run, though not its timing.
const SEED: &str = "LODEN_KILL9_SEED";
/// Every node has a lease in every one of these: 64 in all.
const NETWORKS: u16 = 8;
const NODES: u16 = 8;
/// Networks that come and go.
const PASSING: u16 = 4;
/// How long after the first acknowledgement the kill comes, in µs.
const STORM: std::ops::Range<u64> = 5_000..60_000;
const ANSWER: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_lose_nothing_that_was_acknowledged_and_give_nothing_twice() {
    let seed = env::var(SEED).ok().map(|seed| seed.parse().unwrap()).unwrap_or_else(rand::random);
    match kill_again_and_again(seed).await {
        Ok(figures) => println!("{figures}"),
        Err(error) => panic!("seed {seed}: {error:#}"),
    }
}

async fn kill_again_and_again(seed: u64) -> anyhow::Result<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    // So few VNIs, and so short a cooldown, that what is given back is given out again at once.
    let vnis = format!("1-{}", NETWORKS + PASSING);
    let flags = ["--settle", "0s", "--cooldown", "1ms", "--vni-range", &vnis];
    let mut deployment = Deployment::start("kill9", &flags).await?;
    let identities = Identities::of(&deployment.control, &deployment.lab.directory().join("identities"))?;
    let actors = Actors {
        admin: identities.admin("storm")?,
        nodes: (0..NODES).map(|node| identities.node(&node_name(node))).collect::<anyhow::Result<_>>()?,
    };
    let admin = deployment.control.channel(&actors.admin).await?;
    let mut witness = Witness::default();
    for network in 0..NETWORKS {
        // Seven slots for eight nodes: one always waits for what another gives back.
        let made = client::create_network(&admin, &lasting(network), &pool(network), 27).await?;
        witness.networks.insert(lasting(network), Item::sure(made));
    }
    witness.deletions = (0..PASSING).map(|network| (passing(network), Arc::default())).collect();
    let mut watcher = Watcher::begin(&admin).await?;
    let (mut starts, mut figures) = (Vec::new(), Figures::default());
    for round in 0..ROUNDS {
        let told = format!("round {round}");
        let moment = Duration::from_micros(rng.random_range(STORM));
        let watching = tokio::spawn(watcher.read_on());
        let storm =
            Storm::begin(&deployment, &actors, &witness, rng.random()).await.with_context(|| told.clone())?;
        tokio::time::sleep(moment).await;
        deployment.control.kill9().await?;
        watcher = watching.await?;
        figures.add(storm.end(&mut witness).await.with_context(|| told.clone())?);

        let begin = Instant::now();
        deployment.control.start().await.with_context(|| told.clone())?;
        starts.push(begin.elapsed());
        let admin = deployment.control.channel(&actors.admin).await?;
        witness.compare(&admin).await.with_context(|| format!("after {told}"))?;
        watcher.compare(&admin, &witness).await.with_context(|| format!("the watch after {told}"))?;
    }
    starts.sort();
    let Figures { acknowledged, refused, open } = figures;
    ensure!(open >= ROUNDS, "only {open} calls were open at {ROUNDS} kills: this proves nothing");
    ensure!(acknowledged >= ROUNDS, "only {acknowledged} acknowledgements: this proves nothing");
    Ok(format!(
        "{ROUNDS} kills: {acknowledged} writes acknowledged, none lost; {refused} refused; {open} open at a \
         kill; start {:?} (median), {:?} (longest)",
        starts[starts.len() / 2],
        starts[starts.len() - 1],
    ))
}

fn node_name(node: u16) -> String {
    format!("node-{node}")
}

fn lasting(network: u16) -> String {
    format!("lasting-{network}")
}

fn passing(network: u16) -> String {
    format!("passing-{network}")
}

fn pool(network: u16) -> String {
    format!("10.1.{network}.0/24")
}

/// Identities of everybody in a storm.
struct Actors {
    admin: PathBuf,
    nodes: Vec<PathBuf>,
}
