//! Everything that faults can happen to: replicas behind haproxy on etcd, and real agents with a pod each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tonic::transport::Channel;

use super::clock::Clock;
use super::plan::Actor;
use crate::client::{self, Identities};
use crate::deployment::{Node, Replicated, ReplicatedSettings, Underlay};
use crate::hosts::{Container, Host, Process};
use crate::traffic::{Ping, RunningPing};

/// The network of the agents.
pub(super) const NETWORK: &str = "default";
const POOL: &str = "10.244.0.0/16";
const SLOT: u32 = 24;
/// The underlay number of the first agent's host.
const FIRST: u8 = 11;
/// How long anything may take that nothing is wrong with.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(5);
/// For the last reply, on a busy machine.
const LINGER: Duration = Duration::from_secs(5);

/// The hosts with their programs. Dropping it ends and removes everything.
pub(super) struct Site {
    pub(super) nodes: Vec<Node>,
    pods: Vec<Container>,
    pub(super) identities: Identities,
    /// An administrator's identity.
    pub(super) admin: PathBuf,
    /// The VNI of the agents' network.
    pub(super) vni: u32,
    /// Who has ended without being killed, and what was said last.
    pub(super) ended: Vec<String>,
    pub(super) replicated: Replicated,
    /// Of replicas and agents. Last: what they remove belongs to processes.
    clocks: BTreeMap<Actor, Clock>,
}

impl Site {
    /// Starts everything and waits until every pod reaches the next one.
    pub(super) async fn start(name: &str, agents: u8, flags: &[&str]) -> anyhow::Result<Self> {
        let mut replicated =
            Replicated::prepare(name, ReplicatedSettings { flags, ..ReplicatedSettings::default() }).await?;
        let directory = replicated.deployment.lab.directory().to_owned();
        Clock::works(&directory)?;
        let mut clocks = BTreeMap::new();
        for (number, replica) in replicated.replicas_mut().into_iter().enumerate() {
            let clock = Clock::new(&directory, &format!("replica-{number}"))?;
            replica.set_environment(clock.environment());
            clocks.insert(Actor::Replica(number), clock);
        }
        replicated.launch().await?;
        let identities = Identities::of(&replicated.deployment.control, &directory.join("identities"))?;
        let admin = identities.admin("chaos")?;
        let channel = replicated.channel(&admin).await?;
        let network = client::create_network(&channel, NETWORK, POOL, SLOT).await?;
        let vni = network.vni.context("the network has no VNI")?;

        let (nodes, pods, ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut site = Self { nodes, pods, identities, admin, vni, ended, replicated, clocks };
        for number in 0..agents {
            site.add_node(number).await?;
        }
        for (number, node) in site.nodes.iter().enumerate() {
            node.ready(PATIENCE).await?;
            site.pods.push(node.attach(&format!("pod{number}")).await?);
        }
        for actor in site.actors() {
            site.note_process(actor);
        }
        Ok(site)
    }

    async fn add_node(&mut self, number: u8) -> anyhow::Result<()> {
        let deployment = &self.replicated.deployment;
        let mut node = deployment.prepare_node(&format!("agent{number}"), FIRST + number, &[]).await?;
        // As hosts have to everywhere: the workload's nodes are where nobody is.
        node.host.add_route(client::NOWHERE, deployment.control.address().ip()).await?;
        let clock = Clock::new(deployment.lab.directory(), &format!("agent-{number}"))?;
        node.set_environment(clock.environment());
        node.start()?;
        self.clocks.insert(Actor::Agent(number.into()), clock);
        self.nodes.push(node);
        Ok(())
    }

    /// A channel through haproxy of the administrator.
    pub(super) async fn channel(&self) -> anyhow::Result<Channel> {
        self.replicated.channel(&self.admin).await
    }

    /// Has every pod ping the next one; each is reached when this returns.
    pub(super) async fn pings(&self) -> anyhow::Result<Vec<RunningPing>> {
        let mut pings = Vec::new();
        for (from, to) in self.pods.iter().zip(self.pods.iter().cycle().skip(1)) {
            let ping = Ping::to(to.address()).interval(PACE).linger(LINGER).start(from)?;
            ping.reach(PATIENCE).await?;
            pings.push(ping);
        }
        Ok(pings)
    }

    /// Everybody whose process can be killed.
    pub(super) fn actors(&self) -> Vec<Actor> {
        let replicas = (0..self.replicated.replicas().len()).map(Actor::Replica);
        let members = (0..self.replicated.etcd.members().len()).map(Actor::Member);
        let agents = (0..self.nodes.len()).map(Actor::Agent);
        replicas.chain(members).chain(agents).chain([Actor::Balancer]).collect()
    }

    /// `None` while it is down.
    pub(super) fn process(&self, actor: Actor) -> Option<&Process> {
        match actor {
            Actor::Replica(number) => self.replicated.replicas().get(number)?.process.as_ref(),
            Actor::Member(number) => self.replicated.etcd.members().get(number)?.process.as_ref(),
            Actor::Agent(number) => self.nodes.get(number)?.process.as_ref(),
            Actor::Balancer => self.replicated.haproxy.daemon().process.as_ref(),
        }
    }

    pub(super) fn signal(&self, actor: Actor, signal: Signal) -> anyhow::Result<()> {
        let process = self.process(actor).with_context(|| format!("{actor} does not run"))?;
        Ok(process.signal(signal)?)
    }

    pub(super) async fn kill9(&mut self, actor: Actor) -> anyhow::Result<()> {
        match actor {
            Actor::Replica(number) => {
                let replica = self.replicated.replicas_mut().into_iter().nth(number);
                replica.context("there is no such replica")?.kill9().await
            }
            Actor::Member(number) => self.replicated.etcd.member(number)?.kill9().await,
            Actor::Agent(number) => {
                self.nodes.get_mut(number).context("there is no such agent")?.kill9().await
            }
            Actor::Balancer => self.replicated.haproxy.daemon_mut().kill9().await,
        }
    }

    pub(super) fn spawn(&mut self, actor: Actor) -> anyhow::Result<()> {
        match actor {
            Actor::Replica(number) => {
                let replica = self.replicated.replicas_mut().into_iter().nth(number);
                replica.context("there is no such replica")?.spawn()?;
            }
            Actor::Member(number) => self.replicated.etcd.member(number)?.spawn()?,
            Actor::Agent(number) => {
                self.nodes.get_mut(number).context("there is no such agent")?.start()?;
            }
            Actor::Balancer => self.replicated.haproxy.daemon_mut().spawn()?,
        }
        self.note_process(actor);
        Ok(())
    }

    fn note_process(&mut self, actor: Actor) {
        let process = self.process(actor).map(Process::pid);
        if let (Some(clock), Some(process)) = (self.clocks.get_mut(&actor), process) {
            clock.started(process);
        }
    }

    pub(super) fn jump(&self, actor: Actor, seconds: i64) -> anyhow::Result<()> {
        self.clocks.get(&actor).with_context(|| format!("{actor} has no clock of its own"))?.jump(seconds)
    }

    /// Where somebody is.
    pub(super) fn seat(&self, actor: Actor) -> anyhow::Result<(Host, IpAddr)> {
        let nobody = || format!("there is no {actor}");
        Ok(match actor {
            Actor::Replica(number) => {
                let replicas = self.replicated.replicas();
                let replica = replicas.get(number).with_context(nobody)?;
                (replica.host.clone(), replica.address().ip())
            }
            Actor::Member(number) => {
                let member = self.replicated.etcd.members().get(number).with_context(nobody)?;
                (member.host.clone(), self.replicated.etcd.address(number)?)
            }
            Actor::Agent(number) => {
                let node = self.nodes.get(number).with_context(nobody)?;
                (node.host.clone(), Underlay::V4.address(FIRST + u8::try_from(number)?).addr())
            }
            Actor::Balancer => {
                let haproxy = &self.replicated.haproxy;
                (haproxy.daemon().host.clone(), haproxy.address().ip())
            }
        })
    }

    /// Starts again what has ended by itself, as a service manager does.
    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        for actor in self.actors() {
            let Some(process) = self.process(actor) else { continue };
            if let Some(status) = process.exit_status() {
                let told = format!("{actor} ended by itself with {status}: {}", process.log().tail());
                self.ended.push(told);
                self.spawn(actor)?;
            }
        }
        Ok(())
    }
}
