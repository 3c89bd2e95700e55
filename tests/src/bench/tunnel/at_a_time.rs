//! How many packets of a flow our tunnel moves with each system call, without which it would be no faster than a naive
//! one.

use anyhow::{Context, ensure};
use loden_datapath::tunnel::counters::Counters;

use super::super::{Metric, Series};
use super::stage::{Stage, UDP};
use crate::traffic::{Amount, Transfer};

const BYTES: u64 = 64 << 20;
/// With fewer, somebody cuts the super-packets before they get to the tunnel: a device on the way whose
/// `gso_max_size` is below the containers', for one.
const LEAST: f64 = 4.0;

pub(super) async fn metrics(stage: &Stage) -> anyhow::Result<Vec<Metric>> {
    let path = stage.paths.iter().find(|path| path.name == UDP).context("there is no tunnel")?;
    let [from, to] = stage.counters()?;
    let moved = || [sent(&from), received(&to)];
    let before = moved();
    Transfer::to(path.target).amount(Amount::Bytes(BYTES)).run(&path.from, &path.to).await?;
    let names = ["packets_per_send", "packets_per_write"];
    let metrics = before.into_iter().zip(moved()).zip(names).map(|((before, after), name)| {
        let [packets, calls] = [0, 1].map(|at| (after[at] - before[at]) as f64);
        let each = packets / calls;
        ensure!(each >= LEAST, "{name} is {each:.1}: the tunnel is given no super-packets, or makes none");
        Ok(Metric::alone(name, "packets", &Series::from_iter([each]))?)
    });
    metrics.collect()
}

/// Packets, and system calls.
fn sent(counters: &Counters) -> [u64; 2] {
    [counters.sent(), counters.sends()]
}

fn received(counters: &Counters) -> [u64; 2] {
    [counters.received(), counters.writes()]
}
