//! What the demo does, in order, and what it measures of each step.
//!
//! ```text
//! three hosts ─▶ all pairs ─▶ the way of a packet ─▶ one more joins ─▶ it leaves
//!             ─▶ the control plane is killed ─▶ an agent is killed ─▶ all backends compared ─▶ Report
//!                └────────── a ping at 5 ms runs through each ──────────┘
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use time::OffsetDateTime;

use super::backend::Backend;
use super::compare;
use super::report::{NetworkFacts, Outcome, Pair, Report, Timeline, human};
use super::stage::{self, Actor, NETWORK, PATIENCE, POOL};
use super::way;
use crate::deployment::Deployment;
use crate::hosts::Namespace;
use crate::traffic::{Amount, Ping, RunningPing, Transfer};
use crate::wait;

/// Echo requests per pair.
const PINGS: usize = 100;
/// Between the echo requests of a pair's ping.
const PAIR_INTERVAL: Duration = Duration::from_millis(5);
/// Between the echo requests that run while things happen.
const EVENT_INTERVAL: Duration = Duration::from_millis(5);
/// How long the ping goes on before and after each event.
const QUIET: Duration = Duration::from_millis(1500);
/// Length of one TCP transfer.
const TRANSFER: Duration = Duration::from_millis(500);
/// How long everybody may take to agree again.
const CONVERGE: Duration = Duration::from_secs(30);

/// Runs the demo. `say` is told what is going on.
///
/// # Errors
/// When a step cannot be done. What was done and did not go as promised is in the report.
pub async fn run(backend: Backend, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Report> {
    say("control plane: makes its CA and starts");
    let deployment = Deployment::start("demo", &["--settle", "3s"]).await?;
    say(&format!("network {NETWORK}: {POOL}, {backend}"));
    stage::create_network(&deployment, backend).await?;
    say("hosts a, b, c: certificates, agents, a container each");
    let actors = Actor::enter_all(&deployment, &[("a", 11), ("b", 12), ("c", 13)]).await?;
    let mut report = Report { date: date(), machine: machine(), ..Report::default() };
    report.network = network(&deployment, backend).await?;
    settle(&actors).await?;
    say("all pairs: ping and TCP");
    report.pairs = pairs(&actors).await?;
    let leases = stage::leases(&deployment, NETWORK).await?;
    for actor in &actors {
        report.hosts.push(stage::facts(actor, &leases, backend)?);
    }
    say("the way of a packet from a to c");
    let way = way::Way { from: &actors[0], to: &actors[2], fabric: &deployment.fabric, backend };
    report.way = way.follow(&report.hosts[2]).await?;
    let mut story = Story { deployment, actors, report, backend, say };
    story.a_host_joins_and_leaves().await?;
    story.the_control_plane_is_killed().await?;
    story.an_agent_is_killed().await?;
    let Story { mut report, .. } = story;
    for backend in Backend::ALL {
        say(&format!("comparison: two hosts with {backend}"));
        report.compared.push(compare::measure(backend).await?);
    }
    Ok(report)
}

/// The hosts, and what was found out so far.
struct Story<'a> {
    deployment: Deployment,
    actors: Vec<Actor>,
    report: Report,
    backend: Backend,
    say: &'a (dyn Fn(&str) + Sync),
}

impl Story<'_> {
    async fn a_host_joins_and_leaves(&mut self) -> anyhow::Result<()> {
        (self.say)("a fourth host joins while a ping runs");
        let ping = self.ping(0, 1).await?;
        ping.mark("d joins");
        let begin = Instant::now();
        let (mut guest, _) = Actor::enter(&self.deployment, "d", 14).await?;
        let everybody: Vec<&Actor> = self.actors.iter().chain([&guest]).collect();
        settle(&everybody).await?;
        let joined = begin.elapsed();
        ping.mark("all reach d");
        let leases = stage::leases(&self.deployment, NETWORK).await?;
        let mut facts = stage::facts(&guest, &leases, self.backend)?;
        tokio::time::sleep(QUIET).await;

        (self.say)("and is taken away again");
        ping.mark("d leaves");
        let left_at = Instant::now();
        guest.node.stop().await?;
        self.deployment.lodenctl(&["lease", "release", NETWORK, "d"]).await?;
        for actor in &self.actors {
            gone(&actor.node.host, &facts.subnet).await?;
        }
        let left = left_at.elapsed();
        ping.mark("d is gone");
        tokio::time::sleep(QUIET).await;
        (facts.joined_late, facts.left) = (true, true);
        self.report.hosts.push(facts);

        let report = ping.stop().await?;
        let half = report.mark("d leaves").unwrap_or_default();
        let end = report.timeline.last().map_or(half, |echo| echo.at + EVENT_INTERVAL);
        let until = "all pairs reach it";
        self.outcome("A fourth host joins", until, joined, [report.lost_between(Duration::ZERO, half), 0], {
            report.timeline.iter().filter(|echo| echo.at < half).count()
        });
        let sent = report.timeline.iter().filter(|echo| echo.at >= half).count();
        let until = "its routes are gone everywhere";
        self.outcome("A host is taken away", until, left, [report.lost_between(half, end), 0], sent);
        self.timeline("A host joins and leaves", 0, 1, report);
        Ok(())
    }

    async fn the_control_plane_is_killed(&mut self) -> anyhow::Result<()> {
        (self.say)("the control plane is killed and started again");
        let ping = self.ping(0, 2).await?;
        ping.mark("kill -9 control plane");
        self.deployment.control.kill9().await?;
        tokio::time::sleep(QUIET).await;
        ping.mark("started again");
        let begin = Instant::now();
        self.deployment.control.start().await?;
        let names: Vec<&str> = self.actors.iter().map(Actor::name).collect();
        converged(&self.deployment, &names).await?;
        let took = begin.elapsed();
        ping.mark("all agents are back");
        self.finish(ping, "The control plane is killed", "all agents follow it again", took, (0, 2), 0).await
    }

    async fn an_agent_is_killed(&mut self) -> anyhow::Result<()> {
        (self.say)("the agent of b is killed and started again");
        let ping = self.ping(1, 2).await?;
        ping.mark("kill -9 agent of b");
        let agent = &mut self.actors[1].node;
        agent.kill9().await?;
        tokio::time::sleep(QUIET).await;
        ping.mark("started again");
        let begin = Instant::now();
        agent.start()?;
        agent.ready(PATIENCE).await?;
        converged(&self.deployment, &["b"]).await?;
        let took = begin.elapsed();
        ping.mark("ready");
        let most = self.backend.in_hand();
        self.finish(ping, "An agent is killed", "it is ready and follows", took, (1, 2), most).await
    }

    /// Starts a ping between two containers and lets it run a while.
    async fn ping(&self, from: usize, to: usize) -> anyhow::Result<RunningPing> {
        let target = self.actors[to].container.address();
        let ping = Ping::to(target).interval(EVENT_INTERVAL).start(&self.actors[from].container)?;
        ping.reach(PATIENCE).await?;
        tokio::time::sleep(QUIET).await;
        Ok(ping)
    }

    async fn finish(
        &mut self,
        ping: RunningPing,
        event: &str,
        until: &str,
        took: Duration,
        (from, to): (usize, usize),
        most: usize,
    ) -> anyhow::Result<()> {
        tokio::time::sleep(QUIET).await;
        let report = ping.stop().await?;
        self.outcome(event, until, took, [report.lost(), most], report.sent());
        self.timeline(event, from, to, report);
        Ok(())
    }

    /// `most`: how many packets may be lost.
    fn outcome(
        &mut self,
        event: &str,
        until: &str,
        converged: Duration,
        [lost, most]: [usize; 2],
        sent: usize,
    ) {
        (self.say)(&format!("  {event}: {} until {until}, {lost} of {sent} packets lost", human(converged)));
        self.report.outcomes.push(Outcome {
            event: event.to_owned(),
            until: until.to_owned(),
            converged,
            sent,
            lost,
            good: lost <= most,
        });
    }

    fn timeline(&mut self, title: &str, from: usize, to: usize, ping: crate::traffic::PingReport) {
        self.report.timelines.push(Timeline {
            title: title.to_owned(),
            from: self.actors[from].name().to_owned(),
            to: self.actors[to].name().to_owned(),
            ping,
        });
    }
}

/// Waits until every container reaches every other.
async fn settle<A: std::borrow::Borrow<Actor>>(actors: &[A]) -> anyhow::Result<()> {
    for from in actors {
        for to in actors {
            let (from, to): (&Actor, &Actor) = (from.borrow(), to.borrow());
            if from.name() != to.name() {
                let ping = Ping::to(to.container.address()).start(&from.container)?;
                let reached = ping.reach(CONVERGE).await;
                ping.stop().await?;
                reached.with_context(|| format!("{} does not reach {}", from.name(), to.name()))?;
            }
        }
    }
    Ok(())
}

async fn pairs(actors: &[Actor]) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for from in actors {
        for to in actors.iter().filter(|to| to.name() != from.name()) {
            let target = to.container.address();
            let ping = Ping::to(target).interval(PAIR_INTERVAL).start(&from.container)?;
            tokio::time::sleep(PAIR_INTERVAL * PINGS as u32).await;
            let ping = ping.stop().await?;
            let transfer = Transfer::to(target).amount(Amount::For(TRANSFER));
            let transfer = transfer.run(&from.container, &to.container).await?;
            pairs.push(Pair {
                from: from.name().to_owned(),
                to: to.name().to_owned(),
                sent: ping.sent(),
                lost: ping.lost(),
                rtt: ping.quantile(0.5),
                tcp: transfer.gbit_per_second(),
            });
        }
    }
    Ok(pairs)
}

/// Waits until the control plane lists these nodes as connected and converged.
async fn converged(deployment: &Deployment, names: &[&str]) -> anyhow::Result<()> {
    let all = wait::until("all nodes to follow", CONVERGE, async || {
        let listed = deployment.lodenctl_json(&["node", "list"]).await?;
        let nodes = listed.as_array().context("lodenctl node list printed no array")?;
        for name in names {
            let node = nodes.iter().find(|node| node["name"] == **name);
            let node = node.with_context(|| format!("{name} is not listed"))?;
            let networks = node["networks"].as_array().context("a node has no networks")?;
            let follows = node["connected"] == true
                && !networks.is_empty()
                && networks.iter().all(|network| network["converged"] == true);
            ensure!(follows, "{node}");
        }
        anyhow::Ok(())
    });
    all.await.map_err(|error| anyhow!("{error}"))
}

/// Waits until a host has no route to a subnet.
async fn gone(host: &Namespace, subnet: &str) -> anyhow::Result<()> {
    let what = format!("{} to forget {subnet}", host.name());
    let forgotten = wait::until(&what, CONVERGE, async || {
        let output =
            host.enter(|| std::process::Command::new("ip").args(["route", "show", subnet]).output())?;
        ensure!(output.status.success(), "ip route failed");
        let routes = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(routes.trim().is_empty(), "{}", routes.trim());
        anyhow::Ok(())
    });
    forgotten.await.map_err(|error| anyhow!("{error}"))
}

async fn network(deployment: &Deployment, backend: Backend) -> anyhow::Result<NetworkFacts> {
    let network = deployment.lodenctl_json(&["network", "get", NETWORK]).await?;
    let number = |value: &serde_json::Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    Ok(NetworkFacts {
        name: NETWORK.to_owned(),
        pool: POOL.to_owned(),
        vni: number(&network["vni"]).context("the network has no VNI")?,
        between: backend
            .between(number(&network["backend"]["port"]).and_then(|port| u16::try_from(port).ok())),
    })
}

fn date() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())
}

fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {cpus} processors", kernel.trim())
}
