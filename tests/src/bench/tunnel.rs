//! What the UDP tunnel carries between two containers, beside kernel VXLAN and beside a tunnel that moves one packet
//! with each system call, as flannel's does.
//!
//! ```text
//!  raw          host ═══ fabric ═══ host
//!  vxlan        container ─ bridge ─ VXLAN device ═══ … ═══ VXLAN device ─ bridge ─ container      by hand
//!  naive        container ─ bridge ─ TUN ─ read, send ═══ … ═══ receive, write ─ TUN ─ bridge ─ container
//!  udp          the same through our engine
//! ```
//!
//! First as the links are, then with their offloads off (`_wire`): a wire carries no super-packets. Everything runs in
//! this process, on the kernel of one machine: the ratios count.

mod at_a_time;
mod figures;
mod naive;
mod order;
mod stage;

use super::carry::measured::Measured;
use super::{Metric, Say, Scale};
use stage::Stage;

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let stage = Stage::build().await?;
    let mut metrics = Vec::new();
    for offloads in [true, false] {
        stage.offload(offloads)?;
        let mut all: Vec<Measured> = stage.paths.iter().map(|path| Measured::new(path.name)).collect();
        for run in 0..scale.runs() {
            for turn in 0..stage.paths.len() {
                let index = (run + turn) % stage.paths.len();
                let line = all[index].measure(&stage.paths[index], scale).await?;
                let links = if offloads { "" } else { "wire, " };
                say(&format!("{links}run {} of {}: {line}", run + 1, scale.runs()));
            }
        }
        metrics.extend(figures::metrics(&all, if offloads { "" } else { "_wire" })?);
    }
    stage.offload(true)?;
    metrics.extend(at_a_time::metrics(&stage).await?);
    say("the order of packets");
    metrics.extend(order::metrics(&stage.paths, scale).await?);
    Ok(metrics)
}
