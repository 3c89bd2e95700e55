//! What a fleet costs one control plane, and how fast a change reaches everybody.
//!
//! ```text
//!  round:  10,000 followers   join ─▶ memory ─▶ quiet, then changes: latency to received, CPU time
//!                             ─▶ twenty changes a second ─▶ kill -9, start ─▶ all are back
//!          10,000 watchers of etcd          the same changes, not at the same time
//!          1,000 agents       join ─▶ changes: latency to applied, encodings ─▶ kill -9, start ─▶ all are back
//! ```
//!
//! Server and clients are processes of their own, in one namespace, over mTLS; the server is the
//! real binary. Followers do what an agent does towards the server, so what they see is the server and the
//! wire; agents are whole ones on fake datapaths.

mod agents;
mod etcd;
mod followers;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::metric::quantile;
use super::swarm::{Answer, Kind, Order, Swarm};
use super::{Metric, Say, Scale};
use crate::deployment::Deployment;

const NETWORK: &str = "default";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(1000);
/// How long a control plane may take to serve again.
const START: Duration = Duration::from_secs(30);

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let program = std::env::current_exe()?;
    let (mut followers, mut beside) = (followers::Rounds::default(), followers::Told::default());
    let mut agents = agents::Rounds::default();
    let rounds = scale.long_runs();
    for round in 1..=rounds {
        let line = followers.round(&program, scale).await.context("followers")?;
        say(&format!("round {round} of {rounds}: {} followers: {line}", scale.followers));
        let line = etcd::round(&mut beside, &program, scale).await.context("etcd")?;
        say(&format!("round {round} of {rounds}: {} watchers of etcd: {line}", scale.followers));
        let line = agents.round(&program, scale).await.context("agents")?;
        say(&format!("round {round} of {rounds}: {} agents: {line}", scale.agents));
    }
    let mut metrics = followers.metrics(&beside, scale.followers)?;
    metrics.extend(agents.metrics(scale.agents)?);
    Ok(metrics)
}

/// Everybody, all at once.
fn join() -> Order {
    Order::Join { network: NETWORK.to_owned(), at_once: None }
}

/// A control plane with an empty network, and a swarm that has not joined.
async fn start(program: &Path, (kind, count): (Kind, usize)) -> anyhow::Result<(Deployment, Swarm)> {
    let deployment = Deployment::start("fanout", &[]).await?;
    deployment.create_network(NETWORK, "10.0.0.0/8").await?;
    let swarm = Swarm::start(&deployment, program, kind, count).await?;
    Ok((deployment, swarm))
}

fn server(deployment: &Deployment) -> anyhow::Result<u32> {
    Ok(deployment.control.process.as_ref().context("the control plane runs")?.pid())
}

/// Makes changes; answers how long each took to reach each member, in ms.
async fn changes(swarm: &mut Swarm, count: usize, scale: &Scale) -> anyhow::Result<Vec<f64>> {
    let order = Order::Change { count: u16::try_from(count)?, pause: scale.pause() };
    match swarm.order(&order, LIMIT).await? {
        Answer::Changed { latencies } => Ok(latencies),
        other => bail!("the swarm has answered {other:?}"),
    }
}

fn seconds(answer: Answer) -> anyhow::Result<f64> {
    match answer {
        Answer::Done { seconds } => Ok(seconds),
        other => bail!("the swarm has answered {other:?}"),
    }
}

fn spread(latencies: &[f64]) -> (f64, f64) {
    let part = |part| quantile(latencies, part).unwrap_or_default();
    (part(0.5), part(0.99))
}

/// Reads a counter of the control plane.
async fn counter(deployment: &Deployment, name: &str) -> anyhow::Result<f64> {
    let (status, text) = deployment.control.get("/metrics").await?;
    ensure!(status.is_success(), "/metrics: {status}");
    sample(&text, name).with_context(|| format!("/metrics has no {name}"))
}

/// The value of a sample without labels.
fn sample(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// `1k` of 1000, `250` of 250.
pub(super) fn size(agents: usize) -> String {
    if agents >= 1000 && agents.is_multiple_of(1000) {
        format!("{}k", agents / 1000)
    } else {
        agents.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "# TYPE a counter\na_total_more 3\na_total 7\n";
        assert_eq!(sample(text, "a_total"), Some(7.0));
        assert_eq!(sample(text, "b_total"), None);
    }

    #[test]
    fn sizes_are_named_as_agreed() {
        assert_eq!((size(1000), size(10_000), size(250)), ("1k".into(), "10k".into(), "250".into()));
    }
}
