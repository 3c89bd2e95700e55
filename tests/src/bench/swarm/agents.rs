//! Whole agents, each on a fake datapath that tells when a change is programmed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipnet::IpNet;
use loden_agent::iface::Selection;
use loden_agent::session::Timing;
use loden_agent::status::{Overview, Source};
use loden_agent::{Agent, AgentConfig, Connection};
use loden_datapath::firewall::FakeFirewall;
use loden_datapath::{
    Datapath, DefaultRoute, DeviceName, Error, Fake, Hints, Host, HostFacts, HostRoute, Interface,
    InterfaceAddress, Plan, Report, RouteLookup, Rungs, Scope, Step, Tables, Writes,
};
use loden_proto::model::Family;
use loden_proto::names::{NetworkId, NodeId};
use loden_transport::{Dialled, Origins};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::members::{self, Members};
use super::sightings::{self, Sightings};

/// How long everybody may take to join, or to come back.
const JOIN: Duration = Duration::from_secs(900);
/// Length of the underlay's prefix.
const UNDERLAY: u8 = 16;

/// Agents with identities and connections, not started.
pub(super) struct Prepared(Vec<(u16, NodeId, Channel)>);

/// Agents that run. Dropping them ends them.
pub(super) struct Agents {
    all: Vec<One>,
    sightings: Arc<Sightings>,
}

struct One {
    node: NodeId,
    overview: watch::Receiver<Overview>,
    /// Streams it had opened at the last mark.
    opened: u64,
    _agent: Agent,
}

impl Agents {
    pub(super) fn prepare(members: &Members, count: u16) -> anyhow::Result<Prepared> {
        let one = |index| {
            let node = members::name(index)?;
            let channel = members.connect(&node)?;
            Ok((index, node, channel))
        };
        Ok(Prepared((0..count).map(one).collect::<anyhow::Result<_>>()?))
    }

    pub(super) fn sightings(&self) -> Arc<Sightings> {
        Arc::clone(&self.sightings)
    }

    /// Remembers how many streams each has opened.
    pub(super) fn mark(&mut self) {
        for one in &mut self.all {
            one.opened = one.overview.borrow().link.opened;
        }
    }

    /// Waits until each has opened a stream since the mark.
    pub(super) async fn rejoined(&mut self) -> anyhow::Result<()> {
        let opened = |one: &One| {
            let before = one.opened;
            move |overview: &Overview| overview.link.connected && overview.link.opened > before
        };
        wait(&mut self.all, opened, "opened a stream again").await
    }
}

impl Prepared {
    /// Starts `at_once`, and one more for each that has programmed what it was told first; done when each
    /// has programmed all the others and the driver.
    pub(super) async fn start(
        self,
        home: &Path,
        network: &NetworkId,
        sightings: &Arc<Sightings>,
        at_once: usize,
    ) -> anyhow::Result<Agents> {
        let everybody = self.0.len();
        let mut all: Vec<One> = Vec::with_capacity(everybody);
        let inside = |_: &One| |overview: &Overview| overview.applied.source == Some(Source::Server);
        for (index, node, channel) in self.0 {
            if let Some(before) = all.len().checked_sub(at_once) {
                wait(&mut all[before..=before], inside, "been told the others").await?;
            }
            let config = AgentConfig {
                networks: vec![network.clone()],
                state_dir: home.join(node.as_str()),
                subnet_file: None,
                cni_config_dir: None,
                firewall_insert: false,
                blackhole_route: false,
                udp_port: None,
                selection: Selection::default(),
                timing: Timing::default(),
            };
            let datapath = Watched::new(index, sightings)?;
            let connection = Connection {
                node: node.clone(),
                channels: channel.into(),
                dialled: Dialled::default(),
                origins: Origins::default(),
            };
            let agent = Agent::start(config, &connection, FakeFirewall::default(), |_| Ok(datapath.clone()))
                .with_context(|| format!("start {node}"))?;
            let overview = agent.overview(network).context("the agent has the network it was given")?;
            all.push(One { node, overview, opened: 0, _agent: agent });
        }
        let whole = |_: &One| {
            move |overview: &Overview| {
                overview.applied.peers == everybody && overview.applied.failures.is_empty()
            }
        };
        wait(&mut all, whole, "programmed everybody").await?;
        Ok(Agents { all, sightings: Arc::clone(sightings) })
    }
}

/// Waits until a condition holds for each; an error counts those who fall short.
async fn wait<C: FnMut(&Overview) -> bool>(
    all: &mut [One],
    condition: impl Fn(&One) -> C,
    what: &str,
) -> anyhow::Result<()> {
    let each = async {
        for one in all.iter_mut() {
            let holds = condition(one);
            let seen = one.overview.wait_for(holds).await;
            seen.map_err(|_| anyhow!("the agent of {} has ended", one.node))?;
        }
        anyhow::Ok(())
    };
    if let Ok(result) = tokio::time::timeout(JOIN, each).await {
        return result;
    }
    let short = |one: &&One| !condition(one)(&one.overview.borrow());
    let missing: Vec<_> = all.iter().filter(short).collect();
    let first = missing.first().map(|one| {
        let overview = one.overview.borrow().clone();
        format!(
            "; first {}: {} peers, {:?}, {:?}",
            one.node, overview.applied.peers, overview.link, overview.lease
        )
    });
    Err(anyhow!(
        "{} of {} have not {what} within {JOIN:?}{}",
        missing.len(),
        all.len(),
        first.unwrap_or_default()
    ))
}

/// A fake datapath on a host of its own.
#[derive(Clone)]
struct Watched {
    fake: Fake,
    member: u16,
    sightings: Arc<Sightings>,
}

impl Watched {
    fn new(member: u16, sightings: &Arc<Sightings>) -> anyhow::Result<Self> {
        let fake = Fake::new(facts(members::underlay(member))?);
        Ok(Self { fake, member, sightings: Arc::clone(sightings) })
    }
}

/// A host with one NIC.
fn facts(address: Ipv4Addr) -> anyhow::Result<HostFacts> {
    let (name, own) = ("eth0".parse()?, IpNet::new(IpAddr::V4(address), UNDERLAY)?);
    let nic = Interface { addresses: vec![InterfaceAddress::lasting(own)], ..Interface::ethernet(2, name) };
    let gateway = own.hosts().next();
    let everywhere = HostRoute {
        prefix: IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0)?,
        device: Some(name),
        gateway,
        metric: 0,
        drops: false,
    };
    let route = DefaultRoute { family: Family::V4, device: name, gateway, metric: 0 };
    Ok(HostFacts {
        interfaces: vec![nic],
        routes: vec![everywhere],
        default_routes: vec![route],
        connected: vec![(name, own.trunc())],
        forwards: vec![Family::V4, Family::V6],
        ..HostFacts::default()
    })
}

impl Datapath for Watched {
    async fn observe(&mut self, scope: &Scope) -> Result<Tables, Error> {
        self.fake.observe(scope).await
    }

    async fn execute(&mut self, plan: &Plan) -> Report {
        let report = self.fake.execute(plan).await;
        for step in plan.steps() {
            match step {
                Step::SetFdb(_, entry) => {
                    if let Some(change) = sightings::change(entry.destination) {
                        self.sightings.saw(self.member, change);
                    }
                }
                // Nobody but the driver ever goes.
                Step::UnsetFdb(_) => self.sightings.saw(self.member, sightings::GONE),
                _ => {}
            }
        }
        report
    }

    async fn rungs(&mut self, device: DeviceName) -> Option<Rungs> {
        self.fake.rungs(device).await
    }

    fn writes(&self) -> Writes {
        self.fake.writes()
    }

    fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.fake.failed()
    }
}

impl Host for Watched {
    async fn facts(&mut self) -> Result<HostFacts, Error> {
        self.fake.facts().await
    }

    async fn unanswered(&mut self, link: u32) -> Result<Vec<IpAddr>, Error> {
        self.fake.unanswered(link).await
    }

    async fn route_to(&mut self, address: IpAddr) -> Result<Option<RouteLookup>, Error> {
        self.fake.route_to(address).await
    }

    async fn announce(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.fake.announce(device, addresses).await
    }

    async fn ask(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.fake.ask(device, addresses).await
    }

    async fn hints(&mut self) -> Result<Hints, Error> {
        self.fake.hints().await
    }
}
