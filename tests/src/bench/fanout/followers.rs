//! Followers by the thousands: joining, what a stream takes, changes, and coming back to a server that was killed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::super::swarm::{Answer, Kind, Order, Swarm};
use super::super::usage::{process_time, resident_kib};
use super::super::{Better, Metric, Scale, Series};
use super::{LIMIT, START, changes, counter, etcd, join, seconds, server, size, spread, start};

/// From one of many changes to the next.
pub(super) const PERIOD: Duration = Duration::from_millis(50);
const PER_SECOND: u32 = 20;

/// What is measured of our followers and of etcd's watchers alike.
#[derive(Default)]
pub(super) struct Told {
    pub(super) join: Series,
    /// Of the server, per stream.
    pub(super) rss: Series,
    pub(super) change_p50: Series,
    pub(super) change_p99: Series,
    /// Of the server, per change and member.
    pub(super) cpu: Series,
    /// Of the server, of one processor, while there are twenty changes a second.
    pub(super) steady_cpu: Series,
    pub(super) steady_p50: Series,
    pub(super) steady_p99: Series,
}

/// The rounds.
#[derive(Default)]
pub(super) struct Rounds {
    told: Told,
    reconnect: Series,
    snapshot_encodings: Series,
    /// Of those that came back: what had not changed for them.
    unchanged: Series,
    attempts: Series,
}

impl Told {
    /// Changes one by one, then many a second, while everybody watches.
    pub(super) async fn changes(
        &mut self,
        server: u32,
        swarm: &mut Swarm,
        scale: &Scale,
    ) -> anyhow::Result<String> {
        // The first ones warm everything up.
        changes(swarm, scale.changes(), scale).await?;
        let (cpu, begin) = (process_time(server)?, Instant::now());
        let latencies = changes(swarm, scale.changes(), scale).await?;
        let (busy, took) = (process_time(server)?.saturating_sub(cpu), begin.elapsed());
        // Signs of life go on in any case: as long without a change.
        let cpu = process_time(server)?;
        tokio::time::sleep(took).await;
        let idle = process_time(server)?.saturating_sub(cpu);
        let micros = busy.saturating_sub(idle).as_secs_f64() * 1e6 / latencies.len() as f64;
        let (p50, p99) = spread(&latencies);
        self.change_p50.push(p50);
        self.change_p99.push(p99);
        self.cpu.push(micros);

        let (cpu, begin) = (process_time(server)?, Instant::now());
        let order = Order::Steady { count: scale.steady_changes(), period: PERIOD };
        let Answer::Lagged { p50: lag50, p99: lag99, seconds } = swarm.order(&order, LIMIT).await? else {
            bail!("the swarm has answered something else");
        };
        let cores = process_time(server)?.saturating_sub(cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
        self.steady_cpu.push(cores);
        self.steady_p50.push(lag50);
        self.steady_p99.push(lag99);
        let rate = f64::from(scale.steady_changes()) / seconds;
        Ok(format!(
            "change p50 {p50:.1} ms, p99 {p99:.1} ms, {micros:.1} µs CPU; {rate:.1} a second: {cores:.2} processors, \
             lag p50 {lag50:.0} ms, p99 {lag99:.0} ms"
        ))
    }
}

impl Rounds {
    pub(super) async fn round(&mut self, program: &Path, scale: &Scale) -> anyhow::Result<String> {
        let (mut deployment, mut swarm) = start(program, (Kind::Followers, scale.followers)).await?;
        let pid = server(&deployment)?;
        let before = resident_kib(pid)?;
        let join = seconds(swarm.order(&join(), LIMIT).await?)?;
        // What the storm took goes back.
        tokio::time::sleep(scale.calm()).await;
        let rss = (resident_kib(pid)? - before) / scale.followers as f64;
        self.told.join.push(join);
        self.told.rss.push(rss);
        let told = self.told.changes(pid, &mut swarm, scale).await?;

        swarm.order(&Order::Mark, LIMIT).await?;
        let begin = Instant::now();
        deployment.control.kill9().await?;
        deployment.control.spawn()?;
        let Answer::Rejoined { heartbeats, others, attempts, .. } =
            swarm.order(&Order::Rejoined, LIMIT).await?
        else {
            bail!("the swarm has answered something else");
        };
        let reconnect = begin.elapsed().as_secs_f64();
        deployment.control.ready(START).await?;
        let snapshots = counter(&deployment, "loden_snapshot_encodings_total").await?;
        ensure!(heartbeats > 0, "nobody came back to what it had: {others} were told anew");
        // Whoever is back must also hear what is new.
        changes(&mut swarm, 1, scale).await?;
        self.reconnect.push(reconnect);
        self.snapshot_encodings.push(snapshots);
        self.unchanged.push(100.0 * heartbeats as f64 / (heartbeats + others) as f64);
        // Everybody has lost its watch once.
        let attempts = attempts.saturating_sub(scale.followers);
        self.attempts.push(attempts as f64 / scale.followers as f64);
        Ok(format!(
            "joined in {join:.1} s, {rss:.1} KiB each, {told}; back in {reconnect:.1} s, {heartbeats} by a \
             heartbeat, {others} otherwise, {snapshots} snapshots, {attempts} attempts in vain"
        ))
    }

    pub(super) fn metrics(&self, beside: &Told, followers: usize) -> anyhow::Result<Vec<Metric>> {
        let size = size(followers);
        let against = |name: &str, unit: &str, ours: fn(&Told) -> &Series| {
            Metric::against(name, unit, Better::Lower, ours(&self.told), (etcd::NAME, ours(beside)))
        };
        let alone = |name: &str, unit: &str, series: &Series| Metric::alone(name, unit, series);
        Ok(vec![
            alone(&format!("join_{size}"), "s", &self.told.join)?,
            against("rss_per_stream", "KiB", |told| &told.rss)?,
            against(&format!("change_p50_{size}"), "ms", |told| &told.change_p50)?,
            against(&format!("change_p99_{size}"), "ms", |told| &told.change_p99)?,
            against("cpu_per_stream_us", "CPU µs", |told| &told.cpu)?,
            against(&format!("steady_cpu_{PER_SECOND}"), "processors", |told| &told.steady_cpu)?,
            against(&format!("steady_lag_p50_{PER_SECOND}"), "ms", |told| &told.steady_p50)?,
            against(&format!("steady_lag_p99_{PER_SECOND}"), "ms", |told| &told.steady_p99)?,
            alone(&format!("reconnect_{size}"), "s", &self.reconnect)?,
            alone("reconnect_unchanged", "% by a heartbeat", &self.unchanged)?,
            alone("reconnect_attempts", "in vain, each", &self.attempts)?,
            alone("snapshot_encodings_reconnect", "", &self.snapshot_encodings)?,
        ])
    }
}
