//! A TCP flow that runs while it is looked at: what arrives, and what that costs.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::super::Series;
use super::super::usage::FlowTime;
use super::Path;
use crate::traffic::{Amount, RunningTransfer, Transfer};

/// How long nothing may arrive.
const LONGEST: Duration = Duration::from_secs(10);

/// Streams from one end of a path to the other.
pub(in crate::bench) struct Flow {
    path: &'static str,
    transfer: RunningTransfer,
    time: FlowTime,
}

impl Flow {
    /// Begins; `pinned` as [`Transfer::pinned`] has it.
    pub(in crate::bench) async fn start(path: &Path, streams: usize, pinned: bool) -> anyhow::Result<Self> {
        let transfer = Transfer::to(path.target).streams(streams).amount(Amount::Endless);
        let transfer = if pinned { transfer.pinned() } else { transfer };
        let transfer = transfer.start(&path.from, &path.to).await?;
        let time = FlowTime::of(transfer.threads())?;
        Ok(Self { path: path.name, transfer, time })
    }

    /// Looks at it for a while, or until something has arrived.
    pub(in crate::bench) async fn watch(&self, time: Duration) -> anyhow::Result<Carried> {
        let (arrived, spent, begin) = (self.transfer.arrived(), self.time.spent()?, Instant::now());
        tokio::time::sleep(time).await;
        // On a busy machine nobody may have come to send or receive at all.
        while self.transfer.arrived() == arrived && begin.elapsed() < LONGEST {
            tokio::time::sleep(time).await;
        }
        let (bytes, cpu) = (self.transfer.arrived() - arrived, self.time.spent()? - spent);
        ensure!(bytes > 0, "{} carried nothing for {LONGEST:?}", self.path);
        let gbit = bytes as f64 * 8e-9;
        Ok(Carried {
            gbit_per_second: gbit / begin.elapsed().as_secs_f64(),
            cpu_per_gbit: cpu.as_secs_f64() / gbit,
        })
    }

    /// Ends it.
    pub(in crate::bench) async fn stop(self) -> anyhow::Result<()> {
        self.transfer.stop().await?;
        Ok(())
    }
}

/// What was carried in a while.
pub(in crate::bench) struct Carried {
    pub(in crate::bench) gbit_per_second: f64,
    /// CPU seconds.
    pub(in crate::bench) cpu_per_gbit: f64,
}

/// The same, again and again.
#[derive(Clone, Default)]
pub(in crate::bench) struct Rates {
    /// Gbit/s.
    pub(in crate::bench) rate: Series,
    /// CPU seconds per Gbit.
    pub(in crate::bench) cpu: Series,
}

impl Rates {
    pub(in crate::bench) fn push(&mut self, carried: &Carried) {
        self.rate.push(carried.gbit_per_second);
        self.cpu.push(carried.cpu_per_gbit);
    }
}
