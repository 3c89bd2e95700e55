//! The control plane's state is lost, or is an old copy, while real agents run: nobody loses a peer or a
//! subnet, and nobody new gets a subnet that is in use.
//!
//! ```text
//!  agents, pings ─▶ state lost | copied back ─▶ newcomers ask at once ─▶ adoption ─▶ its end
//!                     routes, pings, subnets: as before ────────────────────▶ │ only now: who is gone goes
//! ```
//!
//! The pool is small and the newcomers are chosen so that an unwary server would give each of them a subnet
//! that somebody else has.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use ipnet::IpNet;
use loden_datapath::tables::PROTOCOL;
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{Container, RouteDeletions, cidr, ip};
use loden_tests::traffic::{Ping, RunningPing};
use loden_tests::wait;
use netlink_packet_route::route::RouteProtocol;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

const NETWORK: &str = "default";
/// Seven slots: the first of eight is never given out.
const POOL: &str = "10.244.0.0/26";
const SLOT: u32 = 29;
/// The first one, whenever it is allocated.
const VNI: u32 = 1;
const DEVICE: &str = "loden1a";
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than agents take to come back: at most 5 s of back-off, and 5 s more for a refusal.
const ADOPT: &str = "20s";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_costs_no_peer_and_no_subnet() -> anyhow::Result<()> {
    the_store_is_lost("lost", ADOPT, async |_: &Fleet| Ok(())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_costs_nothing_either_when_the_network_is_created_again_late() -> anyhow::Result<()> {
    the_store_is_lost("lost-late", "15s", async |fleet: &Fleet| {
        // The operator comes when the time for adoption is over.
        let admin = fleet.admin().await?;
        let until = status(&admin).await?.adopting_until.context("it does not adopt")?;
        let over = wait::until("the time for adoption to pass", PATIENCE, async || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            ensure!(now.as_secs() > until.seconds.cast_unsigned() + 2, "it is not over");
            anyhow::Ok(())
        });
        Ok(over.await?)
    })
    .await
}

/// Loses the store, waits for `operator`, and has the network created again.
async fn the_store_is_lost(
    name: &str,
    adopt: &str,
    operator: impl AsyncFnOnce(&Fleet) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut fleet = Fleet::start(name, &["a", "b", "c", "gone"], adopt).await?;
    let in_use = fleet.subnets_of(&["a", "b", "c"]);
    let newcomers = fleet.newcomers_for(&in_use).await?;
    let count = newcomers.len();
    let calm = fleet.calm(&["a", "b", "c"]).await?;

    fleet.deployment.control.kill9().await?;
    fleet.nodes["gone"].process.as_ref().context("it does not run")?.kill9().await?;
    fs::remove_dir_all(fleet.deployment.control.state.join("store"))?;
    let asking = ask_from_now_on(newcomers);
    fleet.deployment.control.start().await?;
    operator(&fleet).await?;
    fleet.create_network().await?;
    fleet.adoption_ends(&calm).await?;

    fleet.everybody_is_back(&["a", "b", "c"], &calm.subnets).await?;
    let given = granted(asking, &in_use).await?;
    ensure!(given.len() == count, "only {given:?} were given subnets");
    let mut expected = in_use.clone();
    expected.extend(given);
    fleet.only_these_are_left(&["a", "b", "c"], &expected).await?;
    let gone = calm.subnets["gone"];
    for (name, deleted) in calm.deleted() {
        ensure!(deleted == [gone], "{name} has deleted the routes to {deleted:?}");
    }
    calm.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_state_costs_no_peer_and_no_subnet() -> anyhow::Result<()> {
    let mut fleet = Fleet::start("copied", &["a", "b", "c"], ADOPT).await?;
    let state = fleet.deployment.control.state.clone();
    let copy = fleet.deployment.lab.directory().join("an-hour-ago");
    fleet.deployment.control.kill9().await?;
    copy_directory(&state, &copy)?;
    fleet.deployment.control.start().await?;

    // Two more join, and one moves to another address.
    for (name, number) in [("d", 21), ("e", 22)] {
        fleet.join(name, number).await?;
    }
    let moved = fleet.nodes["c"].host.clone();
    moved.remove_address("eth0", cidr("192.0.2.13/24")).await?;
    moved.add_address("eth0", cidr("192.0.2.33/24")).await?;
    let all = ["a", "b", "c", "d", "e"];
    let subnets = fleet.subnets();
    fleet.everybody_is_back(&all, &subnets).await?;
    fleet.c_is_reached_at("192.0.2.33").await?;
    let newcomers = fleet.newcomers_for(&fleet.subnets_of(&["d", "e"])).await?;
    let calm = fleet.calm(&all).await?;

    fleet.deployment.control.kill9().await?;
    fs::remove_dir_all(&state)?;
    copy_directory(&copy, &state)?;
    let asking = ask_from_now_on(newcomers);
    fleet.deployment.control.start().await?;
    fleet.adoption_ends(&calm).await?;

    fleet.everybody_is_back(&all, &subnets).await?;
    fleet.c_is_reached_at("192.0.2.33").await?;
    let given = granted(asking, &fleet.subnets_of(&all)).await?;
    ensure!(given.len() == 2, "the two subnets that are left went to {given:?}");
    let mut expected = fleet.subnets_of(&all);
    expected.extend(given);
    fleet.only_these_are_left(&all, &expected).await?;
    for (name, deleted) in calm.deleted() {
        ensure!(deleted.is_empty(), "{name} has deleted the routes to {deleted:?}");
    }
    calm.end().await
}

/// Real agents in one network, each with a container.
struct Fleet {
    deployment: Deployment,
    identities: Identities,
    admin_identity: PathBuf,
    nodes: BTreeMap<String, Node>,
    containers: BTreeMap<String, Container>,
}

impl Fleet {
    async fn start(name: &str, nodes: &[&str], adopt: &str) -> anyhow::Result<Self> {
        let flags = ["--adopt-for", adopt, "--heartbeat", "1s", "--cooldown", "1s"];
        let deployment = Deployment::start(name, &flags).await?;
        // Kept apart from the state that is lost.
        let identities = Identities::of(&deployment.control, &deployment.lab.directory().join("identities"))?;
        let admin_identity = identities.admin("operator")?;
        let mut fleet = Self {
            deployment,
            identities,
            admin_identity,
            nodes: BTreeMap::new(),
            containers: BTreeMap::new(),
        };
        fleet.create_network().await?;
        for (number, name) in (11..).zip(nodes) {
            fleet.join(name, number).await?;
        }
        fleet.everybody_is_back(nodes, &fleet.subnets()).await?;
        Ok(fleet)
    }

    async fn join(&mut self, name: &str, number: u8) -> anyhow::Result<()> {
        let node = self.deployment.add_node(name, number, &[]).await?;
        node.ready(PATIENCE).await?;
        self.containers.insert(name.to_owned(), node.attach(&format!("pod-{name}")).await?);
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    async fn admin(&self) -> anyhow::Result<Channel> {
        self.deployment.control.channel(&self.admin_identity).await
    }

    async fn create_network(&self) -> anyhow::Result<()> {
        client::create_network(&self.admin().await?, NETWORK, POOL, SLOT).await?;
        Ok(())
    }

    /// What everybody's `subnet.env` says.
    fn subnets(&self) -> BTreeMap<String, IpNet> {
        let subnet = |node: &Node| node.subnet_env().unwrap().subnet.trunc();
        self.nodes.iter().map(|(name, node)| (name.clone(), subnet(node))).collect()
    }

    fn subnets_of(&self, names: &[&str]) -> BTreeSet<IpNet> {
        let subnets = self.subnets();
        names.iter().map(|name| subnets[*name]).collect()
    }

    /// Nodes that each would be given one of these subnets by a server that thinks it is free.
    async fn newcomers_for(&self, subnets: &BTreeSet<IpNet>) -> anyhow::Result<Vec<Newcomer>> {
        let admin = self.admin().await?;
        let pool: IpNet = POOL.parse()?;
        let mut wanted: BTreeMap<u32, IpNet> =
            subnets.iter().map(|subnet| (offset(*subnet, pool), *subnet)).collect();
        let mut found = Vec::new();
        for number in 0_u8..100 {
            let name = format!("new-{number}");
            // Where a node begins in an empty network is where it begins in every network of that shape.
            let scratch: IpNet = format!("10.245.{number}.0/26").parse()?;
            client::create_network(&admin, &name, &scratch.to_string(), SLOT).await?;
            let channel = self.deployment.control.channel(&self.identities.node(&name)?).await?;
            let endpoint = client::endpoint(number.into());
            let lease = client::acquire(&channel, &name, number.into(), endpoint).await?;
            if wanted.remove(&offset(lease.subnets[0].parse()?, scratch)).is_some() {
                found.push(Newcomer { number: number.into(), channel });
            }
            let request = v1::DeleteNetworkRequest { name: format!("networks/{name}"), force: true };
            NetworkServiceClient::new(admin.clone()).delete_network(request).await?;
            if wanted.is_empty() {
                return Ok(found);
            }
        }
        Err(anyhow!("nobody begins at {wanted:?}"))
    }

    /// Pings around between these, and listens for deleted routes.
    async fn calm(&self, names: &[&str]) -> anyhow::Result<Calm> {
        let mut calm = Calm { subnets: self.subnets(), deletions: BTreeMap::new(), pings: Vec::new() };
        for (from, to) in names.iter().zip(names.iter().cycle().skip(1)) {
            let deletions = self.nodes[*from].host.route_deletions(RouteProtocol::Other(PROTOCOL))?;
            calm.deletions.insert((*from).to_owned(), deletions);
            let ping = Ping::to(self.containers[*to].address()).start(&self.containers[*from])?;
            ping.reach(PATIENCE).await?;
            calm.pings.push((format!("{from} to {to}"), ping));
        }
        Ok(calm)
    }

    /// The server adopts, says so, and ends it; until then nobody has deleted a route.
    async fn adoption_ends(&self, calm: &Calm) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let begun = wait::until("adoption to begin", PATIENCE, async || {
            ensure!(status(&admin).await?.adopting_until.is_some(), "it does not adopt");
            anyhow::Ok(())
        });
        begun.await?;
        let told = wait::until("/readyz to tell", Duration::from_secs(3), async || {
            let (_, ready) = self.deployment.control.get("/readyz").await?;
            ensure!(ready.contains("adopting"), "it says {ready}");
            anyhow::Ok(())
        });
        told.await?;
        let ended = wait::until("adoption to end", PATIENCE, async || {
            let deleted = calm.deleted();
            if status(&admin).await?.adopting_until.is_none() {
                return Ok(Ok(()));
            }
            if deleted.values().any(|deleted| !deleted.is_empty()) {
                return Ok(Err(anyhow!("routes were deleted during adoption: {deleted:?}")));
            }
            Err(anyhow!("it adopts"))
        });
        ended.await?
    }

    /// These are connected, converged, ready and have these subnets.
    async fn everybody_is_back(
        &self,
        names: &[&str],
        subnets: &BTreeMap<String, IpNet>,
    ) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        for name in names {
            let what = format!("{name} to converge");
            let converged = wait::until(&what, PATIENCE, async || {
                let request = v1::GetNodeRequest { name: format!("nodes/{name}") };
                let node = NodeServiceClient::new(admin.clone()).get_node(request).await?.into_inner();
                let converged = node.networks.iter().all(|network| network.converged);
                ensure!(node.connected && converged && node.networks.len() == 1, "{node:?}");
                ensure!(node.networks[0].subnets == [subnets[*name].to_string()], "{node:?}");
                anyhow::Ok(())
            });
            converged.await?;
            self.nodes[*name].ready(PATIENCE).await?;
        }
        let now = self.subnets();
        let same = names.iter().all(|name| now[*name] == subnets[*name]);
        ensure!(same, "the subnets were {subnets:?}, now they are {now:?}");
        Ok(())
    }

    /// These agents know exactly these subnets, and these are leased.
    async fn only_these_are_left(&self, names: &[&str], subnets: &BTreeSet<IpNet>) -> anyhow::Result<()> {
        let leases = client::leases(&self.admin().await?).await?;
        let active = leases.iter().filter(|lease| lease.state == v1::LeaseState::Active as i32);
        let leased: BTreeSet<IpNet> =
            active.flat_map(|lease| &lease.subnets).map(|subnet| subnet.parse()).collect::<Result<_, _>>()?;
        ensure!(leased == *subnets, "{subnets:?} are in use, leased are {leased:?}");
        let own = self.subnets();
        for name in names {
            let what = format!("{name} to know the others only");
            let forgotten = wait::until(&what, PATIENCE, async || {
                let routes = self.nodes[*name].host.tunnel(DEVICE).await?.routes;
                let known: BTreeSet<_> =
                    routes.into_keys().filter(|net| u32::from(net.prefix_len()) == SLOT).collect();
                let others = subnets.iter().filter(|subnet| **subnet != own[*name]).copied().collect();
                ensure!(known == others, "it has routes to {known:?}");
                anyhow::Ok(())
            });
            forgotten.await?;
        }
        Ok(())
    }

    /// Where the others send what is for c.
    async fn c_is_reached_at(&self, address: &str) -> anyhow::Result<()> {
        for name in self.nodes.keys().filter(|name| *name != "c") {
            let host = &self.nodes[name].host;
            let what = format!("{name} to send to {address}");
            let sent = wait::until(&what, PATIENCE, async || {
                let fdb = host.tunnel(DEVICE).await?.fdb;
                let expected = fdb.values().any(|to| *to == ip(address));
                let old = fdb.values().any(|to| *to == ip("192.0.2.13"));
                ensure!(expected && !old, "it sends to {fdb:?}");
                anyhow::Ok(())
            });
            sent.await?;
        }
        Ok(())
    }
}

/// A node without an agent that wants a subnet; it connects again by itself.
struct Newcomer {
    number: u16,
    channel: Channel,
}

type Asking = JoinHandle<anyhow::Result<Option<IpNet>>>;

/// Everybody asks again and again, without a claim, and faster than any agent comes back.
fn ask_from_now_on(newcomers: Vec<Newcomer>) -> Vec<Asking> {
    newcomers.into_iter().map(|newcomer| tokio::spawn(newcomer.ask())).collect()
}

impl Newcomer {
    /// Answers the subnet that it was given; `None`: nothing is left.
    async fn ask(self) -> anyhow::Result<Option<IpNet>> {
        let Self { number, channel } = self;
        let asked = wait::until("a subnet", PATIENCE * 2, async || {
            match client::acquire(&channel, NETWORK, number.into(), client::vtep(number, VNI)).await {
                Ok(lease) => Ok(Ok(Some(lease.subnets[0].parse()?))),
                Err(status) if Reason::Exhausted.is_of(&status) => Ok(Ok(None)),
                Err(status) if later(&status) => Err(anyhow!(status)),
                Err(status) => Ok(Err(anyhow!(status).context(format!("new-{number}")))),
            }
        });
        asked.await?
    }
}

/// Whether it may help to ask again: the server is away or says so, or there is no network yet.
fn later(status: &Status) -> bool {
    reason::of(status).is_none() || matches!(status.code(), Code::Unavailable | Code::NotFound)
}

/// What the newcomers were given: nothing that is in use, and nothing twice.
async fn granted(asking: Vec<Asking>, in_use: &BTreeSet<IpNet>) -> anyhow::Result<BTreeSet<IpNet>> {
    let mut given = BTreeSet::new();
    for asked in asking {
        if let Some(subnet) = asked.await?? {
            ensure!(!in_use.contains(&subnet), "{subnet} was given out, which is in use");
            ensure!(given.insert(subnet), "{subnet} was given out twice");
        }
    }
    Ok(given)
}

/// What must not be disturbed.
struct Calm {
    subnets: BTreeMap<String, IpNet>,
    deletions: BTreeMap<String, RouteDeletions>,
    pings: Vec<(String, RunningPing)>,
}

impl Calm {
    /// The routes that each has deleted so far.
    fn deleted(&self) -> BTreeMap<&str, Vec<IpNet>> {
        self.deletions.iter().map(|(name, deletions)| (name.as_str(), deletions.seen())).collect()
    }

    /// No ping was lost.
    async fn end(self) -> anyhow::Result<()> {
        for (what, ping) in self.pings {
            let report = ping.stop().await?;
            ensure!(report.lost() == 0, "{what}: {} of {} pings lost", report.lost(), report.sent());
            ensure!(report.sent() > 1000, "{what}: only {} pings", report.sent());
        }
        Ok(())
    }
}

async fn status(admin: &Channel) -> anyhow::Result<v1::ClusterStatus> {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    Ok(cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner())
}

/// The number of a subnet in its pool.
fn offset(subnet: IpNet, pool: IpNet) -> u32 {
    let number = |net: IpNet| match net {
        IpNet::V4(net) => u32::from(net.network()),
        IpNet::V6(_) => unreachable!("every network here is IPv4"),
    };
    (number(subnet) - number(pool)) >> (32 - SLOT)
}

fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
