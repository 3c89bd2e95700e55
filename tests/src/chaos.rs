//! Everything that can go wrong at once, from a seed, while clients work and pods ping each other.
//!
//! ```text
//!  seed ─▶ Plan ─▶ faults ─▶ 3 replicas, 3 members of etcd, haproxy, agents ◀── pings of 5 ms between their pods
//!                              ▲ │
//!  clients: calls ─────────────┘ └─▶ answers, lists ─▶ history ─▶ violations
//!
//!  the faults are over ─▶ every agent's kernel = the ledger, within ten seconds
//! ```
//!
//! Processes are killed, stopped and started again, hosts are cut off from each other, clocks jump. Agents are never cut
//! off from each other: the packets of their pods go that way, and none of them may be lost, whatever happens.

mod clock;
mod converged;
mod plan;
mod play;
mod site;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use self::converged::converge;
use self::site::Site;
use self::workload::{Workload, last_looks};
use crate::bench::Say;
use crate::bench::swarm::{Kind, Order, Swarm};
use crate::client;
use crate::history::{Recorder, Rule, Violation};
use crate::traffic::PingReport;

pub use plan::{Actor, Fault, Plan, Planned, Rules, Step};
pub use workload::Load;

/// How long after the faults everything may take to be in order.
pub const CONVERGES: Duration = Duration::from_secs(10);
/// So long that no lease expires meanwhile, and shorter than a clock jumps: only whoever trusts that clock alone ends one.
const LEASE_TTL: &str = "30m";
/// What is given back is free again at once, so that two have a chance to get it.
const COOLDOWN: &str = "1s";
/// Replicas come back so often that new nodes would always wait.
const SETTLE: &str = "1s";
/// The network of the swarm.
const MANY: &str = "many";
const MANY_POOL: &str = "10.0.0.0/9";
/// As many of the swarm may be joining at the same time.
const AT_ONCE: u16 = 300;
/// Before a change of the swarm's is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the swarm may take to join.
const JOIN: Duration = Duration::from_secs(900);

/// Repeats the choices of an earlier run, though not their timing.
pub const SEED: &str = "LODEN_CHAOS_SEED";

/// The seed that was asked for, if any.
///
/// # Errors
/// When what the environment holds is no number.
pub fn seed() -> anyhow::Result<Option<u64>> {
    let told = std::env::var(SEED).ok();
    told.map(|told| told.parse::<u64>().with_context(|| format!("{SEED}: {told:?} is no number"))).transpose()
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Of all choices.
    pub seed: u64,
    /// How many real agents there are, each on a host with a pod.
    pub agents: u8,
    /// Clients that write down what they are told.
    pub load: Load,
    /// More agents, without a kernel: how many, and the program that becomes them.
    pub swarm: Option<(usize, PathBuf)>,
    /// How long things go wrong.
    pub length: Duration,
    /// The time from one fault to the next, in ms.
    pub pause: std::ops::Range<u64>,
    /// How long somebody is stopped or cut off at most.
    pub longest: Duration,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How many faults there were.
    pub faults: usize,
    /// How many calls were answered that they were done.
    pub acknowledged: usize,
    /// How many calls nobody has answered.
    pub unknown: usize,
    /// What cannot be, of what was seen.
    pub violations: Vec<Violation>,
    /// One for each pod.
    pub pings: Vec<PingReport>,
    /// How long after the faults the agents' kernels were as the ledger.
    pub converged: Duration,
    /// The same of the swarm: until each has programmed a change.
    pub swarm_converged: Option<Duration>,
    /// Who has ended without being killed.
    pub ended: Vec<String>,
}

impl Outcome {
    /// Acknowledged calls of which nothing was left.
    #[must_use]
    pub fn lost(&self) -> usize {
        let is_loss = |violation: &&Violation| matches!(violation.rule, Rule::NothingLost | Rule::EndsByCall);
        self.violations.iter().filter(is_loss).count()
    }

    /// Requests of all pings.
    #[must_use]
    pub fn pings_sent(&self) -> usize {
        self.pings.iter().map(PingReport::sent).sum()
    }

    /// Those without a reply.
    #[must_use]
    pub fn pings_lost(&self) -> usize {
        self.pings.iter().map(PingReport::lost).sum()
    }

    /// Whether everything is as promised.
    ///
    /// # Errors
    /// Says what is not.
    pub fn judge(&self) -> anyhow::Result<()> {
        let violations: Vec<_> = self.violations.iter().take(10).map(ToString::to_string).collect();
        let count = self.violations.len();
        ensure!(violations.is_empty(), "{count} violations, first:\n{}", violations.join("\n"));
        for ping in &self.pings {
            ensure!(ping.lost() == 0, "{ping}");
        }
        ensure!(self.ended.is_empty(), "{}", self.ended.join("\n"));
        Ok(())
    }
}

impl Chaos {
    /// Makes it. What was lost or wrong is in the answer; `say` is told what is going on.
    ///
    /// # Errors
    /// When something could not be set up or measured, or the agents have not converged in time.
    pub async fn run(&self, name: &str, say: &Say<'_>) -> anyhow::Result<Outcome> {
        let told = || format!("seed {}", self.seed);
        let lasting = 2 + u8::from(self.swarm.is_some());
        // One less than all that come and go would need.
        let vnis = format!("1-{}", lasting + self.load.founders.saturating_sub(1));
        let flags =
            ["--lease-ttl", LEASE_TTL, "--cooldown", COOLDOWN, "--settle", SETTLE, "--vni-range", &vnis];
        let mut site = Site::start(name, self.agents, &flags).await.with_context(told)?;
        let mut swarm = self.swarm(&site).await?;
        let plan = Plan::new(self.seed, &self.rules(&site));

        let pings = site.pings().await?;
        let recorder = Arc::new(Recorder::default());
        let workload = Workload::begin(&site, self.load, self.seed, &recorder).await?;
        say(&format!("seed {}: {} faults in {:?}", self.seed, plan.faults.len(), self.length));
        let faults = site.play(&plan, say).await.with_context(told)?;
        let over = Instant::now();
        // Whoever is at something ends it meanwhile, and what comes of that is there soon as well.
        let (converged, ()) =
            tokio::try_join!(converge(&site, over, CONVERGES), workload.end()).with_context(told)?;
        converge(&site, Instant::now(), CONVERGES).await.with_context(told)?;
        let swarm_converged = match &mut swarm {
            Some(swarm) => Some(hears(swarm, over).await.with_context(told)?),
            None => None,
        };
        last_looks(&site, &recorder).await.with_context(told)?;
        let mut reports = Vec::new();
        for ping in pings {
            reports.push(ping.stop().await?);
        }
        let history = recorder.so_far();
        Ok(Outcome {
            faults,
            acknowledged: history.acknowledged(),
            unknown: history.unknown(),
            violations: history.check(),
            pings: reports,
            converged,
            swarm_converged,
            ended: std::mem::take(&mut site.ended),
        })
    }

    fn rules(&self, site: &Site) -> Rules {
        Rules {
            replicas: site.replicated.replicas().len(),
            members: site.replicated.etcd.members().len(),
            agents: site.nodes.len(),
            length: self.length,
            pause: self.pause.clone(),
            longest: self.longest,
            quorum_may_go: false,
        }
    }

    async fn swarm(&self, site: &Site) -> anyhow::Result<Option<Swarm>> {
        let Some((count, program)) = &self.swarm else { return Ok(None) };
        let replicated = &site.replicated;
        client::create_network(&site.channel().await?, MANY, MANY_POOL, 24).await?;
        let deployment = &replicated.deployment;
        let mut swarm =
            Swarm::start_on(&replicated.clients, deployment, program, Kind::Agents, *count).await?;
        let join = Order::Join { network: MANY.to_owned(), at_once: Some(AT_ONCE) };
        swarm.order(&join, JOIN).await?;
        Ok(Some(swarm))
    }
}

/// Makes a change until every member of a swarm has programmed one, and so everything before it; answers how long after
/// `over` that was.
async fn hears(swarm: &mut Swarm, over: Instant) -> anyhow::Result<Duration> {
    let change = Order::Change { count: 1, pause: Duration::ZERO };
    loop {
        match swarm.order(&change, JOIN).await {
            Ok(_) => return Ok(over.elapsed()),
            // The one who makes the change may be on its way back itself.
            Err(_) if over.elapsed() < CONVERGES => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error),
        }
    }
}
