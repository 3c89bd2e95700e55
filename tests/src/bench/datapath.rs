//! Peers in the kernel: thousands at once, one more, and putting back what somebody has taken away.
//!
//! ```text
//!  program   peers in hand ─▶ observe, plan, execute ─▶ a dump shows all of them
//!            the same objects by `ip -batch` and `bridge -batch` in another namespace, by turns
//!  agent     the real program with 10,000 peers, told of changes and disturbed
//! ```
//!
//! The kernel's netlink lock is global: nothing else that changes networks should run beside it.

mod agent;
mod fleet;
mod program;

use super::fanout::size;
use super::metric::quantile;
use super::{Better, Metric, Say, Scale, Series};
use agent::Loaded;
use fleet::Shape;
use program::Stage;

const PEERS: usize = 10_000;
/// Changes of one peer.
const CHANGES: usize = 500;
/// Routes that somebody deletes.
const HEALS: usize = 30;

const BY_HAND: &str = "iproute2 -batch, one gateway per peer";

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let mut metrics = programming(scale, say).await?;
    metrics.extend(agents(scale, say).await?);
    Ok(metrics)
}

async fn programming(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let stage = Stage::build().await?;
    let mut metrics = Vec::new();
    let plans = [
        ("vxlan", Shape::Vxlan, 1_000, scale.runs()),
        ("vxlan", Shape::Vxlan, PEERS, scale.runs()),
        ("vxlan", Shape::Vxlan, 50_000, 1),
        ("dual", Shape::Dual, PEERS, scale.long_runs()),
        ("hostgw", Shape::HostGw, PEERS, 1),
    ];
    for (name, shape, full, baseline_runs) in plans {
        let count = scale.count(full);
        let network = shape.network()?;
        let peers = shape.peers(&network, count)?;
        let [mut ours, mut back, mut theirs, mut their_back] = <[Series; 4]>::default();
        for run in 0..scale.runs() {
            let took = stage.ours(shape, &network, &peers).await?;
            let mut line = format!("{:.3} s, back in {:.3} s", took.program, took.withdraw);
            ours.push(took.program);
            back.push(took.withdraw);
            if run < baseline_runs {
                let took = stage.theirs(shape, &peers).await?;
                line += &format!("; by hand {:.3} s, {:.3} s", took.program, took.withdraw);
                theirs.push(took.program);
                their_back.push(took.withdraw);
            }
            say(&format!("{count} peers, {name}, run {} of {}: {line}", run + 1, scale.runs()));
        }
        let metric = |what: &str, ours, theirs| {
            let name = format!("{what}_{name}_{}", size(count));
            Metric::against(&name, "s", Better::Lower, ours, (BY_HAND, theirs))
        };
        metrics.push(metric("program", &ours, &theirs)?);
        metrics.push(metric("withdraw", &back, &their_back)?);
    }
    Ok(metrics)
}

async fn agents(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let count = scale.count(PEERS);
    let [mut rss, mut delta, mut passes, mut heal, mut writes, mut down] = <[Series; 6]>::default();
    for run in 0..scale.long_runs() {
        let mut loaded = Loaded::start("datapath", count).await?;
        let before = loaded.passes().await?;
        let took = loaded.changes(scale.count(CHANGES)).await?;
        passes.push(loaded.passes().await? - before);
        // What the first set took in passing has gone back to the kernel by now.
        rss.push(loaded.resident_mib()?);
        let p99 = quantile(&took, 0.99).unwrap_or_default();
        delta.push(p99);
        let took = loaded.heals(scale.count(HEALS)).await?;
        heal.push(quantile(&took, 0.99).unwrap_or_default());
        down.push(loaded.link_down().await?);
        writes.push(loaded.restart_writes().await?);
        say(&format!(
            "agent with {count} peers, run {} of {}: change p99 {p99:.2} ms",
            run + 1,
            scale.long_runs()
        ));
    }
    let count_large = scale.count(50_000);
    let mut down_large = Series::default();
    for _ in 0..scale.long_runs() {
        down_large.push(Loaded::start("datapath", count_large).await?.link_down().await?);
    }
    say(&format!("agent with {count_large} peers: tunnel taken down and healed"));
    let (size, large) = (size(count), size(count_large));
    Ok(vec![
        Metric::alone(&format!("delta_p99_{size}"), "ms", &delta)?,
        Metric::alone(&format!("delta_passes_{size}"), "", &passes)?,
        Metric::alone(&format!("restart_writes_{size}"), "", &writes)?,
        Metric::alone(&format!("rss_{size}"), "MiB", &rss)?,
        Metric::alone("heal_p99", "ms", &heal)?,
        Metric::alone(&format!("linkdown_heal_{size}"), "ms", &down)?,
        Metric::alone(&format!("linkdown_heal_{large}"), "ms", &down_large)?,
    ])
}
