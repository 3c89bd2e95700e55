//! A real agent that holds thousands of peers: a change, a restart, and a foreign hand in the kernel.
//!
//! ```text
//!  change   sent by the control plane ───────▶ notification of the new route
//!  heal     acknowledged to the foreign hand ─▶ notification of the route that is back
//!  down     the tunnel is down, acknowledged ─▶ all routes are there again, by dump
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_proto::model::Peer;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::super::usage::resident_kib;
use super::fleet::{ME, Shape, subnet_v4, underlay_net};
use crate::deployment::{Deployment, Node};
use crate::hosts::{Namespace, RouteNotifications, route_prefix};
use crate::scripted::{Scripted, vxlan_network};
use crate::wait;

const DEVICE: &str = "loden1a";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);
/// An agent that has just repaired something waits before it does so again, lest it fights.
const PEACE: Duration = Duration::from_millis(1200);

/// An agent with so many peers.
pub(super) struct Loaded {
    server: Scripted,
    node: Node,
    peers: Vec<Peer>,
    _deployment: Deployment,
}

impl Loaded {
    /// Starts both and waits until the peers are in the kernel.
    pub(super) async fn start(name: &str, count: usize) -> anyhow::Result<Self> {
        let deployment = Deployment::prepare(name, &[]).await?;
        let network = vxlan_network(&["10.0.0.0/8"], 1);
        let mut server = Scripted::start(&deployment, network, &[&subnet_v4(ME).to_string()]).await?;
        let mut node = deployment.prepare_node("a", 11, &[]).await?;
        // Peers that no route leads to would be left out, and named.
        node.host.add_route(underlay_net(0).trunc(), deployment.control.address().ip()).await?;
        node.start()?;
        let peers = Shape::Vxlan.peers(&Shape::Vxlan.network()?, count)?;
        server.snapshot(peers.iter().map(Into::into).collect(), false).await?;
        server.report(LIMIT).await?;
        node.ready(LIMIT).await?;
        Ok(Self { server, node, peers, _deployment: deployment })
    }

    /// The agent's memory, in MiB.
    pub(super) fn resident_mib(&self) -> anyhow::Result<f64> {
        Ok(resident_kib(self.pid()?)? / 1024.0)
    }

    /// Peers come and go, one at a time; in ms.
    pub(super) async fn changes(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut routes = Routes::listen(&self.node.host)?;
        let mut took = Vec::new();
        let newcomer = Shape::Vxlan.peers(&Shape::Vxlan.network()?, self.peers.len() + 1)?;
        let newcomer = newcomer.last().context("one more than there are")?;
        let subnet = newcomer.subnets.iter().next().context("it has a subnet")?;
        for _ in 0..count {
            let begin = Instant::now();
            self.server.delta(vec![newcomer.into()], &[]).await?;
            routes.added(subnet).await?;
            took.push(begin.elapsed().as_secs_f64() * 1e3);
            self.server.delta(Vec::new(), &[newcomer.node.as_str()]).await?;
            routes.removed(subnet).await?;
        }
        Ok(took)
    }

    /// Whole passes over the kernel so far.
    pub(super) async fn passes(&self) -> anyhow::Result<f64> {
        let (_, text) = self.node.get("/metrics").await?;
        let of_network =
            text.lines().filter(|line| line.starts_with("loden_agent_passes_total{network=\"default\""));
        of_network.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }

    /// Somebody deletes one route, again and again; in ms.
    pub(super) async fn heals(&self, count: usize) -> anyhow::Result<Vec<f64>> {
        let routes_of_ours = self.routes().await?;
        let mut routes = Routes::listen(&self.node.host)?;
        let mut took = Vec::new();
        for number in 0..count {
            let victim = &routes_of_ours[(number * 7919) % routes_of_ours.len()];
            let subnet = route_prefix(victim).context("a route of ours has a prefix")?;
            tokio::time::sleep(PEACE).await;
            self.node.host.netlink().route().del(victim.clone()).execute().await?;
            let begin = Instant::now();
            routes.removed(subnet).await?;
            routes.added(subnet).await?;
            took.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    }

    /// Somebody takes the tunnel down, which flushes all routes over it; in ms.
    pub(super) async fn link_down(&self) -> anyhow::Result<f64> {
        tokio::time::sleep(PEACE).await;
        let wanted = self.peers.len();
        self.node.host.set_down(DEVICE).await?;
        let begin = Instant::now();
        let there = wait::until("all routes to be back", LIMIT, async || {
            let found = self.routes().await?.len();
            ensure!(found == wanted, "{found} of {wanted} routes");
            anyhow::Ok(begin.elapsed())
        });
        Ok(there.await?.as_secs_f64() * 1e3)
    }

    /// Requests to write that an agent sends when it starts again and nothing has changed.
    pub(super) async fn restart_writes(&mut self) -> anyhow::Result<f64> {
        self.node.kill9().await?;
        self.server.await_another_watch();
        self.node.start()?;
        self.server.heartbeat(false).await?;
        self.server.report(LIMIT).await?;
        self.node.ready(LIMIT).await?;
        self.node.metric("loden_agent_kernel_writes_total").await
    }

    fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.node.process.as_ref().context("the agent runs")?.pid())
    }

    /// The routes over the tunnel to other nodes' subnets.
    async fn routes(&self) -> anyhow::Result<Vec<RouteMessage>> {
        let device = self.node.host.link_index(DEVICE).await?;
        let over = |route: &RouteMessage| {
            route.attributes.contains(&RouteAttribute::Oif(device))
                && route.header.destination_prefix_length == 24
        };
        Ok(self.node.host.routes().await?.into_iter().filter(over).collect())
    }
}

/// What becomes of the routes to single subnets.
struct Routes {
    notifications: RouteNotifications,
}

impl Routes {
    fn listen(namespace: &Namespace) -> anyhow::Result<Self> {
        Ok(Self { notifications: namespace.route_notifications()? })
    }

    async fn added(&mut self, subnet: IpNet) -> anyhow::Result<()> {
        self.next(|message| matches!(message, RouteNetlinkMessage::NewRoute(route) if route_prefix(route) == Some(subnet)))
            .await
            .with_context(|| format!("no route to {subnet} came"))
    }

    async fn removed(&mut self, subnet: IpNet) -> anyhow::Result<()> {
        self.next(|message| matches!(message, RouteNetlinkMessage::DelRoute(route) if route_prefix(route) == Some(subnet)))
            .await
            .with_context(|| format!("the route to {subnet} did not go"))
    }

    async fn next(&mut self, wanted: impl Fn(&RouteNetlinkMessage) -> bool) -> anyhow::Result<()> {
        let next = async {
            while let Some(message) = self.notifications.next().await {
                if wanted(&message) {
                    return Ok(());
                }
            }
            anyhow::bail!("the kernel's notifications have ended")
        };
        tokio::time::timeout(LIMIT, next).await?
    }
}
