//! How long it takes to get in, and to be out.
//!
//! ```text
//!  host: loden-agent --token ─▶ key, Join, lease, watch ─▶ the route to the first peer is in the kernel
//!  a fleet: many hosts join with one token, all at once
//!  a node among many agents is revoked ─▶ every agent has taken it out of its datapath
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use loden_proto::model::JoinToken;
use loden_proto::v1;
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_transport::{ConnectOptions, KeyRequest, ServerAddress, connect_joining};
use netlink_packet_route::RouteNetlinkMessage;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fanout::size;
use super::metric::quantile;
use super::swarm::{Answer, Kind, Order, Swarm};
use super::{Metric, Say, Scale, Series};
use crate::deployment::{Deployment, Node};
use crate::hosts::{RouteNotifications, route_prefix};

/// Of real agents.
const FEW: &str = "default";
/// Of the crowd, which counts its peers.
const MANY: &str = "many";
/// Nodes that are shut out in each round, one after the other.
const REVOCATIONS: usize = 20;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let program = std::env::current_exe()?;
    let (mut first_peer, mut joins) = (Series::default(), Series::default());
    let (mut revoked, mut last_revoked) = (Series::default(), Series::default());
    for round in 0..scale.long_runs() {
        let deployment = Deployment::start("identity", &[]).await?;
        deployment.create_network(FEW, "10.0.0.0/16").await?;
        deployment.create_network(MANY, "10.128.0.0/9").await?;
        let there = deployment.add_node("there", 11, &[]).await?;
        there.ready(LIMIT).await?;
        let subnet = there.subnet_env()?.subnet.trunc();
        for number in 0..u8::try_from(scale.runs())? {
            let took = first(&deployment, number, subnet).await?;
            first_peer.push(took.as_secs_f64() * 1e3);
        }
        let took = fleet(&deployment, scale.agents).await?;
        joins.push(took.as_secs_f64());

        let mut swarm = Swarm::start(&deployment, &program, Kind::Agents, scale.agents).await?;
        swarm.order(&Order::Join { network: MANY.to_owned(), at_once: None }, LIMIT).await?;
        let count = u16::try_from(scale.count(REVOCATIONS))?;
        let latencies = match swarm.order(&Order::Revoke { count }, LIMIT).await? {
            Answer::Changed { latencies } => latencies,
            other => bail!("the swarm has answered {other:?}"),
        };
        let part = |part| quantile(&latencies, part).context("nobody was revoked");
        let (p99, last) = (part(0.99)?, part(1.0)?);
        revoked.push(p99);
        last_revoked.push(last);
        say(&format!(
            "round {} of {}: {} joined in {:.2} s; revoked, p99 of all {p99:.1} ms, the last {last:.1} ms",
            round + 1,
            scale.long_runs(),
            scale.agents,
            took.as_secs_f64(),
        ));
    }
    Ok(vec![
        Metric::alone("join_to_first_peer", "ms", &first_peer)?,
        Metric::alone(&format!("joins_{}", size(scale.agents)), "s", &joins)?,
        Metric::alone("revoke_p99", "ms", &revoked)?,
        Metric::alone("revoke_last", "ms", &last_revoked)?,
    ])
}

/// From the start of an agent that has nothing but a token to its route to another node's subnet.
async fn first(deployment: &Deployment, number: u8, subnet: IpNet) -> anyhow::Result<Duration> {
    let name = format!("new-{number}");
    let mut node: Node = deployment.prepare_host(&name, 100 + number).await?;
    let token = deployment.token(&["--node", &name]).await?;
    node.set_flags(&["--token", &token]);
    let mut routes = node.host.route_notifications()?;
    let begin = Instant::now();
    node.start()?;
    timeout(LIMIT, until(&mut routes, subnet)).await.context("it never got there")??;
    let took = begin.elapsed();
    node.stop().await?;
    Ok(took)
}

async fn until(routes: &mut RouteNotifications, subnet: IpNet) -> anyhow::Result<()> {
    while let Some(message) = routes.next().await {
        if let RouteNetlinkMessage::NewRoute(route) = message
            && route_prefix(&route) == Some(subnet)
        {
            return Ok(());
        }
    }
    bail!("the kernel tells no more of its routes")
}

/// So many hosts join with one token, all at once.
async fn fleet(deployment: &Deployment, count: usize) -> anyhow::Result<Duration> {
    let token = deployment.token(&["--uses", &count.to_string()]).await?;
    let address = deployment.control.address();
    deployment.control.run_inside(all_join(token, address, count)).await?
}

async fn all_join(token: String, address: SocketAddr, count: usize) -> anyhow::Result<Duration> {
    let server: ServerAddress = address.to_string().parse()?;
    let root = token.parse::<JoinToken>()?.root;
    let mut hosts = JoinSet::new();
    let begin = Instant::now();
    for index in 0..count {
        let (token, server) = (token.clone(), server.clone());
        hosts.spawn(async move {
            let request = KeyRequest::new()?;
            // A host's patience is its own; here a thousand share two processors.
            let options = ConnectOptions { connect_timeout: LIMIT, ..ConnectOptions::default() };
            let channel = connect_joining(&[server], root, &options).await?;
            let join = v1::JoinRequest {
                token,
                node: format!("nodes/fleet-{index}"),
                certificate_request: request.der().to_vec(),
            };
            let joined = IdentityServiceClient::new(channel).join(join).await?.into_inner();
            ensure!(joined.certificate.is_some(), "{} got no certificate", joined.node);
            anyhow::Ok(())
        });
    }
    while let Some(joined) = hosts.join_next().await {
        joined??;
    }
    Ok(begin.elapsed())
}
