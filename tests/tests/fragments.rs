//! Packets that are longer than the pods' MTU, between real hosts that put fragments together and cut them again:
//! they track connections, also of what passes their bridges.

#![cfg(test)]

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use loden_tests::deployment::{Deployment, Node, Pair, Underlay};
use loden_tests::traffic::Ping;
use loden_tests::wait;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol};

const SOON: Duration = Duration::from_secs(30);
const CREATE: &[&str] =
    &["network", "create", "default", "--pool", "10.244.0.0/16", "--pool", "fd00:244::/48", "--masquerade"];

/// Two hosts whose interfaces have these MTUs, with a container each.
async fn pair(underlay: Underlay, name: &str, network: &[&str], mtus: [u32; 2]) -> anyhow::Result<Pair> {
    let deployment = Deployment::start_over(underlay, name, &[]).await?;
    deployment.lodenctl(&[CREATE, network].concat()).await?;
    let mut nodes = Vec::new();
    for (name, number, mtu) in [("a", 11, mtus[0]), ("b", 12, mtus[1])] {
        let mut node = deployment.prepare_node(name, number, &[]).await?;
        node.host.set_mtu("eth0", mtu).await?;
        for tables in ["iptables", "ip6tables"] {
            node.host.sysctl(&format!("net/bridge/bridge-nf-call-{tables}"), "1")?;
        }
        node.start()?;
        node.ready(SOON).await?;
        nodes.push(node);
    }
    let [a, b] = <[Node; 2]>::try_from(nodes).map_err(|_| anyhow!("two of them"))?;
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    let pair = Pair { a, b, pods, deployment };
    pair.reaches().await?;
    Ok(pair)
}

/// Waits until all routes of ours on a node take packets of so many bytes at most.
async fn leads_with(node: &Node, mtu: u32) -> anyhow::Result<()> {
    let what = format!("the routes of {} to have an MTU of {mtu}", node.name);
    let there = wait::until(&what, SOON, async || {
        let routes = node.host.routes().await?;
        let is_ours = |route: &&RouteMessage| route.header.protocol == RouteProtocol::Other(76);
        let ours: Vec<_> = routes.iter().filter(is_ours).collect();
        let has = |route: &RouteMessage| {
            let is_wanted = |metrics: &Vec<RouteMetric>| metrics.contains(&RouteMetric::Mtu(mtu));
            route
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, RouteAttribute::Metrics(metrics) if is_wanted(metrics)))
        };
        ensure!(ours.len() == 2 && ours.iter().all(|route| has(route)), "they are {ours:?}");
        Ok::<_, anyhow::Error>(())
    });
    Ok(there.await?)
}

/// Messages about as long as an MTU are answered, whatever their length.
async fn all_are_answered(pair: &Pair, mtu: usize) -> anyhow::Result<()> {
    let [from, to] = &pair.pods;
    for target in to.addresses() {
        for size in (mtu - 60..mtu + 80).step_by(4).chain([9000]) {
            let ping = Ping::to(target).size(size).start(from)?;
            let reached = ping.reach(SOON).await;
            reached.with_context(|| format!("with {size} bytes after the IP header, MTU {mtu}"))?;
            ping.stop().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_takes_more_than_pods_do_loses_nothing() -> anyhow::Result<()> {
    let mtus = [1500, 1500];
    let direct = pair(Underlay::V4, "cut-direct", &["--direct-routing"], mtus).await?;
    all_are_answered(&direct, 1450).await?;
    let host_gw = ["--backend", "host-gw", "--mtu", "1400"];
    let host_gw = pair(Underlay::V6, "cut-hostgw", &host_gw, mtus).await?;
    all_are_answered(&host_gw, 1400).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_different_mtus_lose_nothing() -> anyhow::Result<()> {
    let backends =
        [("odd-tunnel", &[][..]), ("odd-direct", &["--direct-routing"]), ("odd-udp", &["--backend", "udp"])];
    for (name, backend) in backends {
        let pair = pair(Underlay::V4, name, backend, [1500, 1400]).await?;
        for mtu in [1350, 1450] {
            all_are_answered(&pair, mtu).await.context(name)?;
        }
    }
    Ok(())
}

/// Next hops over a link whose ends differ; and pods that run keep the MTU that they were started with.
#[tokio::test(flavor = "multi_thread")]
async fn next_hops_of_different_mtus_lose_nothing() -> anyhow::Result<()> {
    let pair = pair(Underlay::V6, "odd-hostgw", &["--backend", "host-gw"], [1500, 1400]).await?;
    all_are_answered(&pair, 1400).await?;
    pair.b.host.set_mtu("eth0", 1500).await?;
    let heeded = wait::until("the new MTU to be told to pods", SOON, async || {
        ensure!(pair.b.subnet_env()?.mtu == 1500, "the old one is told");
        Ok::<_, anyhow::Error>(())
    });
    heeded.await?;
    leads_with(&pair.a, 1400).await?;
    all_are_answered(&pair, 1400).await
}

/// Pods that run keep the MTU that they were started with.
#[tokio::test(flavor = "multi_thread")]
async fn an_mtu_that_is_raised_loses_nothing_to_pods_that_run() -> anyhow::Result<()> {
    let pair = pair(Underlay::V4, "raised", &["--mtu", "1400"], [1500, 1500]).await?;
    pair.deployment.lodenctl(&["network", "update", "default", "--mtu", "1450"]).await?;
    for node in [&pair.a, &pair.b] {
        let told = wait::until("the new MTU to be told to pods", SOON, async || {
            ensure!(node.subnet_env()?.mtu == 1450, "the old one is told");
            Ok::<_, anyhow::Error>(())
        });
        told.await?;
        leads_with(node, 1400).await?;
    }
    all_are_answered(&pair, 1400).await
}
