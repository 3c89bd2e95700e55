//! Whether every agent's kernel holds what the ledger says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::site::{NETWORK, Site};
use crate::client;
use crate::deployment::Node;
use crate::hosts::Tunnel;
use crate::wait;

/// More than there are leases.
const PAGE: i32 = 1000;
/// How long the ledger may take to answer while it comes back.
const ANSWER: Duration = Duration::from_secs(2);

/// Where packets to each subnet have to go to.
type Ways = BTreeMap<IpNet, IpAddr>;

/// Waits until every agent has converged, at most until `limit` has passed since `begin`; answers how long that took.
pub(super) async fn converge(site: &Site, begin: Instant, limit: Duration) -> anyhow::Result<Duration> {
    let channel = site.channel().await?;
    let device = format!("loden{}a", site.vni);
    let left = limit.saturating_sub(begin.elapsed());
    let converged = wait::until("every agent to have what the ledger has", left, async || {
        let leases = timeout(ANSWER, leases(&channel)).await.context("the ledger does not answer")??;
        for node in &site.nodes {
            let wanted = wanted(&leases, node)?;
            let tunnel = node.host.tunnel(&device).await?;
            let has = ways(&tunnel)?;
            ensure!(has == wanted, "{} has {has:?}, the ledger {wanted:?}", node.name);
        }
        anyhow::Ok(begin.elapsed())
    });
    Ok(converged.await?)
}

async fn leases(channel: &Channel) -> anyhow::Result<Vec<v1::Lease>> {
    let parent = format!("networks/{NETWORK}");
    let request = v1::ListLeasesRequest { parent, page_size: PAGE, page_token: String::new() };
    Ok(LeaseServiceClient::new(channel.clone()).list_leases(request).await?.into_inner().leases)
}

/// Those of all others.
fn wanted(leases: &[v1::Lease], node: &Node) -> anyhow::Result<Ways> {
    let mut ways = Ways::new();
    for lease in leases {
        let (_, holder) = client::parts(&lease.name)?;
        let endpoint = lease.endpoint.as_ref().with_context(|| format!("{} has no endpoint", lease.name))?;
        let active = lease.state() == v1::LeaseState::Active && !endpoint.receivers.is_empty();
        if active && holder != node.name {
            for subnet in &lease.subnets {
                ways.insert(subnet.parse()?, endpoint.address_v4.parse()?);
            }
        }
    }
    Ok(ways)
}

/// A route's gateway has a MAC address, and that the address of a host.
fn ways(tunnel: &Tunnel) -> anyhow::Result<Ways> {
    let way = |(subnet, gateway): (&IpNet, &IpAddr)| -> anyhow::Result<(IpNet, IpAddr)> {
        let mac =
            tunnel.neighbours.get(gateway).with_context(|| format!("{gateway} has no neighbour entry"))?;
        let host =
            tunnel.fdb.get(mac).with_context(|| format!("{subnet} leads to {mac:x?}, and that nowhere"))?;
        Ok((*subnet, *host))
    };
    let ways = tunnel.routes.iter().map(way).collect::<anyhow::Result<Ways>>()?;
    let [neighbours, entries] = [tunnel.neighbours.len(), tunnel.fdb.len()];
    ensure!(
        neighbours == ways.len() && entries == ways.len(),
        "{neighbours} neighbours and {entries} entries beside {} routes",
        ways.len()
    );
    Ok(ways)
}
