//! Everything goes wrong at once, at small size: `make bench NAME=chaos` is the same with a thousand agents and for minutes.

#![cfg(test)]

use std::time::Duration;

use anyhow::ensure;
use loden_tests::chaos::{self, Chaos, Load};

/// What happens is the same in every run, and what comes of it should be; `LODEN_CHAOS_SEED` chooses another one.
const SEED: u64 = 1;
/// How many calls have to be answered in spite of it all.
const LEAST: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_nothing_is_given_twice_nothing_is_lost_and_all_converge() -> anyhow::Result<()> {
    let chaos = Chaos {
        seed: chaos::seed()?.unwrap_or(SEED),
        agents: 6,
        load: Load { tenants: 40, reservers: 2, founders: 3 },
        swarm: None,
        length: Duration::from_secs(30),
        pause: 300..1500,
        longest: Duration::from_secs(8),
    };
    let outcome = chaos.run("chaos", &|what: &str| println!("{what}")).await?;
    println!(
        "seed {}: {} faults, {} calls acknowledged, {} without an answer, {} pings, in order after {:?}",
        chaos.seed,
        outcome.faults,
        outcome.acknowledged,
        outcome.unknown,
        outcome.pings_sent(),
        outcome.converged,
    );
    let done = outcome.acknowledged;
    ensure!(done >= LEAST, "only {done} calls were acknowledged: this proves nothing");
    outcome.judge()
}
