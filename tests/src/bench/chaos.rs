//! Everything goes wrong at once: what is lost, and how soon all is in order again.
//!
//! ```text
//!  run: a seed ─▶ faults on 3 replicas, 3 members of etcd, haproxy, 32 hosts with agents; 1,000 agents beside them
//! ```
//!
//! A figure that should be zero and is not is told in words as it comes up. `LODEN_CHAOS_SEED` repeats the choices of an
//! earlier run.

use std::time::Duration;

use anyhow::Context;

use super::{Metric, Say, Scale, Series};
use crate::chaos::{self, Chaos, Load};

/// How many violations are told.
const TOLD: usize = 20;

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let program = std::env::current_exe()?;
    let mut figures = Figures::default();
    for round in 0..scale.long_runs() {
        let seed = chaos::seed()?.unwrap_or_else(rand::random);
        let chaos = Chaos {
            seed,
            agents: u8::try_from(scale.hosts())?,
            load: Load { tenants: scale.tenants(), reservers: 2, founders: 2 },
            swarm: Some((scale.agents, program.clone())),
            length: scale.chaos(),
            pause: 500..3500,
            longest: (scale.chaos() / 4).min(Duration::from_secs(60)),
        };
        let outcome = chaos.run("chaos-bench", say).await.with_context(|| format!("seed {seed}"))?;
        say(&format!(
            "run {} of {}, seed {seed}: {} faults, {} calls acknowledged, {} without an answer, {} violations, {} of {} \
             pings lost, in order after {:.1?}",
            round + 1,
            scale.long_runs(),
            outcome.faults,
            outcome.acknowledged,
            outcome.unknown,
            outcome.violations.len(),
            outcome.pings_lost(),
            outcome.pings_sent(),
            outcome.converged,
        ));
        for violation in outcome.violations.iter().take(TOLD) {
            say(&violation.to_string());
        }
        for ended in &outcome.ended {
            say(ended);
        }
        figures.add(&outcome);
    }
    figures.metrics()
}

/// The runs.
#[derive(Default)]
struct Figures {
    faults: Series,
    acknowledged: Series,
    lost: Series,
    violations: Series,
    ended: Series,
    pings_sent: Series,
    pings_lost: Series,
    converged: Series,
    swarm_converged: Series,
}

impl Figures {
    fn add(&mut self, outcome: &chaos::Outcome) {
        self.faults.push(outcome.faults as f64);
        self.acknowledged.push(outcome.acknowledged as f64);
        self.lost.push(outcome.lost() as f64);
        self.violations.push(outcome.violations.len() as f64);
        self.ended.push(outcome.ended.len() as f64);
        self.pings_sent.push(outcome.pings_sent() as f64);
        self.pings_lost.push(outcome.pings_lost() as f64);
        self.converged.push(outcome.converged.as_secs_f64());
        if let Some(took) = outcome.swarm_converged {
            self.swarm_converged.push(took.as_secs_f64());
        }
    }

    fn metrics(&self) -> anyhow::Result<Vec<Metric>> {
        Ok(vec![
            Metric::alone("faults", "", &self.faults)?,
            Metric::alone("acknowledged", "calls", &self.acknowledged)?,
            Metric::alone("lost", "calls", &self.lost)?,
            Metric::alone("violations", "", &self.violations)?,
            Metric::alone("processes_ended", "", &self.ended)?,
            Metric::alone("pings_sent", "", &self.pings_sent)?,
            Metric::alone("pings_lost", "", &self.pings_lost)?,
            Metric::alone("converged", "s", &self.converged)?,
            Metric::alone("swarm_converged", "s", &self.swarm_converged)?,
        ])
    }
}
