//! Real agents in one network, each with a container, and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use ipnet::IpNet;
use loden_datapath::tables::PROTOCOL;
use loden_proto::v1;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{Container, ip};
use loden_tests::traffic::Ping;
use loden_tests::wait;
use netlink_packet_route::route::RouteProtocol;
use nix::sys::signal::Signal;
use tonic::transport::Channel;

use crate::calm::Calm;
use crate::newcomer::Newcomer;
use crate::{DEVICE, NETWORK, PATIENCE, POOL, SLOT, VNI, status};

/// For the last reply, on a busy machine.
const LINGER: Duration = Duration::from_secs(5);

/// Real agents in one network, each with a container.
pub(crate) struct Fleet {
    pub(crate) deployment: Deployment,
    identities: Identities,
    admin_identity: PathBuf,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) containers: BTreeMap<String, Container>,
}

impl Fleet {
    pub(crate) async fn start(name: &str, nodes: &[&str], adopt: &str) -> anyhow::Result<Self> {
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

    pub(crate) async fn join(&mut self, name: &str, number: u8) -> anyhow::Result<()> {
        let mut node = self.deployment.prepare_node(name, number, &[]).await?;
        // As hosts have to everywhere: newcomers are where nobody is.
        node.host.add_route(client::NOWHERE, self.deployment.control.address().ip()).await?;
        node.start()?;
        node.ready(PATIENCE).await?;
        self.containers.insert(name.to_owned(), node.attach(&format!("pod-{name}")).await?);
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<Channel> {
        self.deployment.control.channel(&self.admin_identity).await
    }

    pub(crate) async fn create_network(&self) -> anyhow::Result<()> {
        client::create_network(&self.admin().await?, NETWORK, POOL, SLOT).await?;
        Ok(())
    }

    /// Gives everybody without an agent who ever had one a certificate of the control plane's new CA, in the
    /// place of the old.
    pub(crate) fn issue_strangers_anew(&mut self) -> anyhow::Result<()> {
        let control = &self.deployment.control;
        let identities = self.deployment.lab.directory().join("identities");
        self.identities = Identities::of(control, &identities)?;
        self.identities.admin("operator")?;
        for entry in fs::read_dir(&identities)? {
            let name = entry?.file_name();
            if let Some(newcomer) = name.to_str().filter(|name| name.starts_with("new-")) {
                self.identities.node(newcomer)?;
            }
        }
        Ok(())
    }

    /// The same for the agents.
    pub(crate) async fn issue_nodes_anew(&self) -> anyhow::Result<()> {
        let control = &self.deployment.control;
        for (name, node) in &self.nodes {
            let out = node.home.join("identity");
            let out = out.to_str().context("the path of the lab is no text")?;
            control.run(&["issue", "node", name, "--force", "--out", out]).await?;
        }
        Ok(())
    }

    /// Sends a signal to every agent.
    pub(crate) fn signal_agents(&self, signal: Signal) -> anyhow::Result<()> {
        for (name, node) in &self.nodes {
            node.process.as_ref().with_context(|| format!("{name} does not run"))?.signal(signal)?;
        }
        Ok(())
    }

    /// A channel of a node without an agent.
    pub(crate) async fn stranger(&self, name: &str) -> anyhow::Result<Channel> {
        self.deployment.control.channel(&self.identities.node(name)?).await
    }

    /// What everybody's `subnet.env` says.
    pub(crate) fn subnets(&self) -> BTreeMap<String, IpNet> {
        let subnet = |node: &Node| node.subnet_env().unwrap().subnet.trunc();
        self.nodes.iter().map(|(name, node)| (name.clone(), subnet(node))).collect()
    }

    pub(crate) fn subnets_of(&self, names: &[&str]) -> BTreeSet<IpNet> {
        let subnets = self.subnets();
        names.iter().map(|name| subnets[*name]).collect()
    }

    /// Nodes that each would be given one of these subnets by a server that thinks it is free.
    pub(crate) async fn newcomers_for(&self, subnets: &BTreeSet<IpNet>) -> anyhow::Result<Vec<Newcomer>> {
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
                let endpoint = client::vtep(number.into(), VNI);
                found.push(Newcomer { number: number.into(), channel, endpoint });
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
    pub(crate) async fn calm(&self, names: &[&str]) -> anyhow::Result<Calm> {
        let mut calm = Calm { subnets: self.subnets(), deletions: BTreeMap::new(), pings: Vec::new() };
        for (from, to) in names.iter().zip(names.iter().cycle().skip(1)) {
            let deletions = self.nodes[*from].host.route_deletions(RouteProtocol::Other(PROTOCOL))?;
            calm.deletions.insert((*from).to_owned(), deletions);
            for address in self.containers[*to].addresses() {
                // The first ones may come before everybody on the way is known to everybody.
                let warm = Ping::to(address).start(&self.containers[*from])?;
                warm.reach(PATIENCE).await?;
                warm.stop().await?;
                let ping = Ping::to(address).linger(LINGER).start(&self.containers[*from])?;
                ping.reach(PATIENCE).await?;
                calm.pings.push((format!("{from} to {address} of {to}"), ping));
            }
        }
        Ok(calm)
    }

    /// The server adopts, says so, and ends it; until then nobody has deleted a route.
    pub(crate) async fn adoption_ends(&self, calm: &Calm) -> anyhow::Result<()> {
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

    /// These are connected.
    pub(crate) async fn everybody_is_connected(&self, names: &[&str]) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        for name in names {
            let what = format!("{name} to be connected");
            let connected = wait::until(&what, PATIENCE, async || {
                let request = v1::GetNodeRequest { name: format!("nodes/{name}") };
                let node = NodeServiceClient::new(admin.clone()).get_node(request).await?.into_inner();
                ensure!(node.connected, "{node:?}");
                anyhow::Ok(())
            });
            connected.await?;
        }
        Ok(())
    }

    /// These are connected, converged, ready and have these subnets.
    pub(crate) async fn everybody_is_back(
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
    pub(crate) async fn only_these_are_left(
        &self,
        names: &[&str],
        subnets: &BTreeSet<IpNet>,
    ) -> anyhow::Result<()> {
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
    pub(crate) async fn c_is_reached_at(&self, address: &str) -> anyhow::Result<()> {
        let others: Vec<_> = self.nodes.keys().map(String::as_str).filter(|name| *name != "c").collect();
        for name in &others {
            let host = &self.nodes[*name].host;
            let what = format!("{name} to send to {address}");
            let sent = wait::until(&what, PATIENCE, async || {
                let fdb = host.tunnel(DEVICE).await?.fdb;
                ensure!(fdb.values().any(|to| *to == ip(address)), "it sends to {fdb:?}");
                anyhow::Ok(())
            });
            sent.await?;
        }
        self.nobody_sends_to("192.0.2.13", &others).await
    }

    /// These nodes have nobody at an address.
    pub(crate) async fn nobody_sends_to(&self, address: &str, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let what = format!("{name} to have nobody at {address}");
            let forgotten = wait::until(&what, PATIENCE, async || {
                let fdb = self.nodes[*name].host.tunnel(DEVICE).await?.fdb;
                ensure!(fdb.values().all(|to| *to != ip(address)), "it sends to {fdb:?}");
                anyhow::Ok(())
            });
            forgotten.await?;
        }
        Ok(())
    }
}

/// The number of a subnet in its pool.
fn offset(subnet: IpNet, pool: IpNet) -> u32 {
    let number = |net: IpNet| match net {
        IpNet::V4(net) => u32::from(net.network()),
        IpNet::V6(_) => unreachable!("every network here is IPv4"),
    };
    (number(subnet) - number(pool)) >> (32 - SLOT)
}
