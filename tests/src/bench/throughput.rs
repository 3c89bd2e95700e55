//! What a path between two containers carries, beside the bare path between their hosts; and what ours costs
//! beside the same pods wired by hand.
//!
//! ```text
//!  run:      raw ─▶ routed ─▶ hostgw ─▶ vxlan_hand ─▶ vxlan_hand_ct ─▶ vxlan      (the next run begins one further)
//!             └─ each: TCP 1 flow, TCP 4 flows, UDP 200 B, round trips; CPU time
//!  one flow: ours │ by hand │ by hand again │ …                                   0.25 s each
//! ```
//!
//! The same kernel carries sender, receiver and everything between, so all figures are bound by
//! CPU: the ratios count, not the gigabits.

mod compare;
mod figures;
mod paths;
mod switched;
mod toggle;

use std::time::Duration;

use super::carry::measured::Measured;
use super::usage::MachineTime;
use super::{Metric, Say, Scale};
use compare::Comparison;
use paths::Stage;

/// Above this many processors busy with something else, figures are worth little.
const QUIET: f64 = 0.1;
/// How long the machine is watched before the first run.
const WATCH: Duration = Duration::from_millis(500);

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let watch = MachineTime::now()?;
    tokio::time::sleep(WATCH).await;
    let load = watch.load()?;
    if load > QUIET {
        say(&format!("others keep {load:.2} processors busy: the figures will be off"));
    }
    let mut stage = Stage::build(say).await?;
    let mut all: Vec<Measured> = stage.paths.iter().map(|path| Measured::new(path.name)).collect();
    for run in 0..scale.many_runs() {
        for turn in 0..stage.paths.len() {
            let index = (run + turn) % stage.paths.len();
            let line = all[index].measure(&stage.paths[index], scale).await?;
            say(&format!("run {} of {}: {line}", run + 1, scale.many_runs()));
        }
    }
    let mut metrics = figures::metrics(&all)?;
    say("the agents are killed, their forwarding stays: what is switched now, nobody puts back");
    for (ours, comparison) in stage.ours.iter_mut().zip(Comparison::ALL) {
        metrics.extend(comparison.measure(ours, scale, say).await?);
    }
    Ok(metrics)
}
