//! All replicas are restarted as operators do it, one after the other, while a fleet hears of changes all the time.
//!
//! ```text
//!  replica 1: SIGTERM ─ sends its clients away ─ ends ─ starts ─ ready ─▶ replica 2 …
//!  a node changes its address, again and again ─▶ how long until each agent has programmed it
//!  afterwards ─▶ as many agents on each replica, soon
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use loden_tests::bench::swarm::{Answer, Kind, Order, Swarm};
use loden_tests::client::{self, Identities};
use loden_tests::deployment::Replicated;
use loden_tests::wait;

use crate::fleet::{Fleet, nothing_was_lost};
use crate::{SOON, streaming};

/// Agents with a kernel.
const AGENTS: u8 = 3;
/// Agents without one.
const SWARM: usize = 60;
const MANY: &str = "many";
/// What has to be kept.
const SLOWEST: Duration = Duration::from_secs(3);
const EVEN_WITHIN: Duration = Duration::from_secs(60);
/// How far from the mean a replica may be.
const UNEVEN: f64 = 0.1;
const JOIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_packet_and_delays_no_change() -> anyhow::Result<()> {
    let mut site = Replicated::start("rolling", &[]).await?;
    let fleet = Fleet::start(&site.deployment, AGENTS).await?;
    let mut swarm = swarm(&site).await?;
    let pings = fleet.pings().await?;

    let over = AtomicBool::new(false);
    let restarts = async {
        for replica in site.replicas_mut() {
            let begin = Instant::now();
            replica.stop().await?;
            let ended = begin.elapsed();
            replica.start().await?;
            println!("a replica has ended after {ended:.1?} and serves again after {:.1?}", begin.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let changes = async {
        let mut latencies = Vec::new();
        while !over.load(Ordering::Relaxed) {
            latencies.extend(change(&mut swarm).await?);
        }
        anyhow::Ok(latencies)
    };
    let ((), mut latencies) = tokio::try_join!(restarts, changes)?;
    let restarted = Instant::now();

    latencies.sort_by(f64::total_cmp);
    let slowest = latencies.get(latencies.len() * 99 / 100).copied().context("nothing was measured")?;
    println!("{} changes, p99 {slowest:.0} ms", latencies.len() / SWARM);
    ensure!(slowest <= SLOWEST.as_secs_f64() * 1e3, "p99 of a change is {slowest:.0} ms");

    let even = wait::until("as many agents on each replica", EVEN_WITHIN, async || {
        let served = streaming(&site).await?.map(|agents| agents.unwrap_or_default() as f64);
        let mean = served.iter().sum::<f64>() / 3.0;
        let everybody = mean * 3.0 >= SWARM as f64 + f64::from(AGENTS);
        let is_even = served.iter().all(|agents| (agents - mean).abs() <= mean * UNEVEN);
        ensure!(everybody && is_even, "{served:?}");
        Ok(served)
    });
    println!("{:?} agents on the replicas after {:.1?}", even.await?, restarted.elapsed());
    nothing_was_lost(pings).await
}

async fn swarm(site: &Replicated) -> anyhow::Result<Swarm> {
    let deployment = &site.deployment;
    let identities = Identities::of(&deployment.control, &deployment.lab.directory().join("identities"))?;
    let admin = site.channel(&identities.admin("rolling")?).await?;
    client::create_network(&admin, MANY, "10.0.0.0/9", 24).await?;
    let program = Path::new(env!("CARGO_BIN_EXE_loden-bench"));
    let mut swarm = Swarm::start_on(&site.clients, deployment, program, Kind::Agents, SWARM).await?;
    swarm.order(&Order::Join { network: MANY.to_owned(), at_once: None }, JOIN).await?;
    Ok(swarm)
}

/// One change; answers how long it took to each member, in ms.
async fn change(swarm: &mut Swarm) -> anyhow::Result<Vec<f64>> {
    let order = Order::Change { count: 1, pause: Duration::from_millis(100) };
    match swarm.order(&order, SOON * 3).await? {
        Answer::Changed { latencies } => Ok(latencies),
        other => bail!("the swarm has answered {other:?}"),
    }
}
