//! What a fleet costs one control plane, and how fast a change reaches everybody.
//!
//! ```text
//!  round:  followers  join ─▶ memory ─▶ quiet, then changes: latency to received, CPU time
//!          agents     join ─▶ changes: latency to applied, encodings ─▶ kill -9, start ─▶ all are back
//! ```
//!
//! Server and clients are processes of their own, in one namespace, over mTLS; the server is the
//! real binary. Followers only read their watch, so what they see is the server and the wire;
//! agents are whole ones on fake datapaths.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::metric::quantile;
use super::swarm::{Answer, Kind, Order, Swarm};
use super::usage::{process_time, resident_kib};
use super::{Metric, Say, Scale, Series};
use crate::deployment::Deployment;

const NETWORK: &str = "default";
/// Changes per round, one after the other.
const CHANGES: usize = 20;
/// The pause before each change: the server is quiet again, so none waits for another.
const PAUSE: Duration = Duration::from_millis(100);
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(1000);
/// How long a control plane may take to serve again.
const START: Duration = Duration::from_secs(30);

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let program = std::env::current_exe()?;
    let mut fanout = Fanout::default();
    for round in 0..scale.long_runs() {
        let line = fanout.followers(&program, scale).await.context("followers")?;
        say(&format!("round {} of {}: {} followers: {line}", round + 1, scale.long_runs(), scale.agents));
        let line = fanout.agents(&program, scale).await.context("agents")?;
        say(&format!("round {} of {}: {} agents: {line}", round + 1, scale.long_runs(), scale.agents));
    }
    fanout.metrics(scale.agents)
}

/// The rounds.
#[derive(Default)]
struct Fanout {
    join: Series,
    rss: Series,
    change_p50: Series,
    change_p99: Series,
    applied_p50: Series,
    applied_p99: Series,
    cpu: Series,
    reconnect: Series,
    entry_encodings: Series,
    snapshot_encodings: Series,
}

impl Fanout {
    async fn followers(&mut self, program: &Path, scale: &Scale) -> anyhow::Result<String> {
        let (deployment, mut swarm) = start(program, Kind::Followers, scale).await?;
        let server = server(&deployment)?;
        let before = resident_kib(server)?;
        swarm.order(&join(), LIMIT).await?;
        let rss = (resident_kib(server)? - before) / scale.agents as f64;

        // The first ones warm everything up.
        changes(&mut swarm, scale.count(CHANGES)).await?;
        let (cpu, begin) = (process_time(server)?, Instant::now());
        let latencies = changes(&mut swarm, scale.count(CHANGES)).await?;
        let (busy, took) = (process_time(server)?.saturating_sub(cpu), begin.elapsed());
        // Signs of life go on in any case: as long without a change.
        let cpu = process_time(server)?;
        tokio::time::sleep(took).await;
        let idle = process_time(server)?.saturating_sub(cpu);
        let deliveries = latencies.len() as f64;
        let micros = busy.saturating_sub(idle).as_secs_f64() * 1e6 / deliveries;

        let (p50, p99) = spread(&latencies);
        self.rss.push(rss);
        self.change_p50.push(p50);
        self.change_p99.push(p99);
        self.cpu.push(micros);
        Ok(format!("{rss:.1} KiB each, change p50 {p50:.1} ms, p99 {p99:.1} ms, {micros:.1} µs CPU"))
    }

    async fn agents(&mut self, program: &Path, scale: &Scale) -> anyhow::Result<String> {
        let (mut deployment, mut swarm) = start(program, Kind::Agents, scale).await?;
        let join = seconds(swarm.order(&join(), LIMIT).await?)?;

        changes(&mut swarm, scale.count(CHANGES)).await?;
        let before = counter(&deployment, "loden_entry_encodings_total").await?;
        let count = scale.count(CHANGES);
        let latencies = changes(&mut swarm, count).await?;
        let after = counter(&deployment, "loden_entry_encodings_total").await?;
        let encodings = (after - before) / count as f64;

        swarm.order(&Order::Mark, LIMIT).await?;
        let begin = Instant::now();
        deployment.control.kill9().await?;
        deployment.control.spawn()?;
        swarm.order(&Order::Rejoined, LIMIT).await?;
        let reconnect = begin.elapsed().as_secs_f64();
        deployment.control.ready(START).await?;
        let snapshots = counter(&deployment, "loden_snapshot_encodings_total").await?;
        // Whoever is back must also hear what is new.
        changes(&mut swarm, 1).await?;

        let (p50, p99) = spread(&latencies);
        self.join.push(join);
        self.applied_p50.push(p50);
        self.applied_p99.push(p99);
        self.entry_encodings.push(encodings);
        self.reconnect.push(reconnect);
        self.snapshot_encodings.push(snapshots);
        Ok(format!(
            "joined in {join:.2} s, applied p50 {p50:.1} ms, p99 {p99:.1} ms, back in {reconnect:.2} s"
        ))
    }

    fn metrics(&self, agents: usize) -> anyhow::Result<Vec<Metric>> {
        let size = size(agents);
        let metric = |name: &str, unit: &str, series: &Series| Metric::alone(name, unit, series);
        Ok(vec![
            metric(&format!("join_{size}"), "s", &self.join)?,
            metric("rss_per_stream", "KiB", &self.rss)?,
            metric(&format!("change_p50_{size}"), "ms", &self.change_p50)?,
            metric(&format!("change_p99_{size}"), "ms", &self.change_p99)?,
            metric(&format!("applied_p50_{size}"), "ms", &self.applied_p50)?,
            metric(&format!("applied_p99_{size}"), "ms", &self.applied_p99)?,
            metric("cpu_per_stream_us", "CPU µs", &self.cpu)?,
            metric(&format!("reconnect_{size}"), "s", &self.reconnect)?,
            metric("entry_encodings", "per change", &self.entry_encodings)?,
            metric("snapshot_encodings_reconnect", "", &self.snapshot_encodings)?,
        ])
    }
}

/// Everybody, all at once.
fn join() -> Order {
    Order::Join { network: NETWORK.to_owned(), at_once: None }
}

/// A control plane with an empty network, and a swarm that has not joined.
async fn start(program: &Path, kind: Kind, scale: &Scale) -> anyhow::Result<(Deployment, Swarm)> {
    let deployment = Deployment::start("fanout", &[]).await?;
    deployment.create_network(NETWORK, "10.0.0.0/8").await?;
    let swarm = Swarm::start(&deployment, program, kind, scale.agents).await?;
    Ok((deployment, swarm))
}

fn server(deployment: &Deployment) -> anyhow::Result<u32> {
    Ok(deployment.control.process.as_ref().context("the control plane runs")?.pid())
}

/// Makes changes; answers how long each took to reach each member, in ms.
async fn changes(swarm: &mut Swarm, count: usize) -> anyhow::Result<Vec<f64>> {
    let order = Order::Change { count: u16::try_from(count)?, pause: PAUSE };
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
