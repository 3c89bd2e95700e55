//! Whole agents: until each has programmed all others, a change until all have programmed it, and coming back.

use std::path::Path;
use std::time::Instant;

use super::super::swarm::{Kind, Order};
use super::super::{Metric, Scale, Series};
use super::{LIMIT, START, changes, counter, join, seconds, size, spread, start};

/// The rounds.
#[derive(Default)]
pub(super) struct Rounds {
    join: Series,
    applied_p50: Series,
    applied_p99: Series,
    reconnect: Series,
    entry_encodings: Series,
}

impl Rounds {
    pub(super) async fn round(&mut self, program: &Path, scale: &Scale) -> anyhow::Result<String> {
        let (mut deployment, mut swarm) = start(program, (Kind::Agents, scale.agents)).await?;
        let join = seconds(swarm.order(&join(), LIMIT).await?)?;

        changes(&mut swarm, scale.changes(), scale).await?;
        let before = counter(&deployment, "loden_entry_encodings_total").await?;
        let count = scale.changes();
        let latencies = changes(&mut swarm, count, scale).await?;
        let after = counter(&deployment, "loden_entry_encodings_total").await?;
        let encodings = (after - before) / count as f64;

        swarm.order(&Order::Mark, LIMIT).await?;
        let begin = Instant::now();
        deployment.control.kill9().await?;
        deployment.control.spawn()?;
        swarm.order(&Order::Rejoined, LIMIT).await?;
        let reconnect = begin.elapsed().as_secs_f64();
        deployment.control.ready(START).await?;
        // Whoever is back must also hear what is new.
        changes(&mut swarm, 1, scale).await?;

        let (p50, p99) = spread(&latencies);
        self.join.push(join);
        self.applied_p50.push(p50);
        self.applied_p99.push(p99);
        self.entry_encodings.push(encodings);
        self.reconnect.push(reconnect);
        Ok(format!(
            "joined in {join:.2} s, applied p50 {p50:.1} ms, p99 {p99:.1} ms, back in {reconnect:.2} s"
        ))
    }

    pub(super) fn metrics(&self, agents: usize) -> anyhow::Result<Vec<Metric>> {
        let size = size(agents);
        let metric = |name: &str, unit: &str, series: &Series| Metric::alone(name, unit, series);
        Ok(vec![
            metric(&format!("join_agents_{size}"), "s", &self.join)?,
            metric(&format!("applied_p50_{size}"), "ms", &self.applied_p50)?,
            metric(&format!("applied_p99_{size}"), "ms", &self.applied_p99)?,
            metric(&format!("reconnect_agents_{size}"), "s", &self.reconnect)?,
            metric("entry_encodings", "per change", &self.entry_encodings)?,
        ])
    }
}
