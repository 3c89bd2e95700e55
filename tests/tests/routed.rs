//! Next hops between real hosts: the backend host-gw, and VXLAN with direct routing. Real processes,
//! pings through the real kernel.

#![cfg(test)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use ipnet::IpNet;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{Container, ip};
use loden_tests::traffic::{Ping, PingReport};
use loden_tests::wait;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};

const SOON: Duration = Duration::from_secs(30);
const POOL: &str = "10.244.0.0/16";
/// The tunnel of the first VNI.
const TUNNEL: &str = "loden1a";

struct Pair {
    deployment: Deployment,
    a: Node,
    b: Node,
    pods: [Container; 2],
}

/// Two ready nodes with a container each. Both are on one segment, and the control plane's host
/// forwards between them for whoever asks it to.
async fn pair(name: &str, backend: &[&str], strict: bool) -> anyhow::Result<Pair> {
    let deployment = Deployment::start(name, &[]).await?;
    deployment.lodenctl(&[&["network", "create", "default", "--pool", POOL], backend].concat()).await?;
    let router = &deployment.control.host;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    for key in ["net.ipv4.conf.all.send_redirects", "net.ipv4.conf.eth0.send_redirects"] {
        router.sysctl(key, "0")?;
    }
    let mut nodes = Vec::new();
    for (name, number) in [("a", 11), ("b", 12)] {
        let mut node = deployment.prepare_node(name, number, &[]).await?;
        if strict {
            for key in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth0.rp_filter"] {
                node.host.sysctl(key, "1")?;
            }
        }
        node.start()?;
        nodes.push(node);
    }
    let [Some(b), Some(a)] = [nodes.pop(), nodes.pop()] else { unreachable!("two were made") };
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    Ok(Pair { deployment, a, b, pods })
}

/// Whether the one route of ours on a host leads over a device, and its next hop.
async fn way(node: &Node, device: &str) -> anyhow::Result<(bool, Option<IpAddr>)> {
    let wanted = node.host.link_index(device).await?;
    let routes = node.host.routes().await?;
    let ours: Vec<&RouteMessage> =
        routes.iter().filter(|route| route.header.protocol == RouteProtocol::Other(76)).collect();
    ensure!(ours.len() == 1, "{} has {ours:?}", node.name);
    let (mut over, mut gateway) = (false, None);
    for attribute in &ours[0].attributes {
        match attribute {
            RouteAttribute::Oif(index) => over = *index == wanted,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            _ => {}
        }
    }
    Ok((over, gateway))
}

/// Waits until the route of a node leads over a device.
async fn leads_over(node: &Node, device: &str) -> anyhow::Result<()> {
    let what = format!("the route of {} to lead over {device}", node.name);
    let there = wait::until(&what, SOON, async || {
        let (over, gateway) = way(node, device).await?;
        ensure!(over, "it leads elsewhere, via {gateway:?}");
        Ok::<_, anyhow::Error>(())
    });
    Ok(there.await?)
}

/// A ping every 5 ms while something happens, and a while longer.
async fn ping_during(
    pods: &[Container; 2],
    happens: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<PingReport> {
    let ping = Ping::to(pods[1].address()).interval(Duration::from_millis(5)).start(&pods[0])?;
    ping.reach(SOON).await?;
    happens().await?;
    for _ in 0..50 {
        ping.reach(SOON).await?;
    }
    Ok(ping.stop().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_forwards_without_a_tunnel_and_comes_back_after_a_link_was_down() -> anyhow::Result<()> {
    let Pair { deployment: _deployment, a, b, pods } =
        pair("hostgw", &["--backend", "host-gw"], false).await?;
    assert_eq!(way(&a, "eth0").await?, (true, Some(ip("192.0.2.12"))));
    assert_eq!(way(&b, "eth0").await?, (true, Some(ip("192.0.2.11"))));
    ensure!(a.host.link(TUNNEL).await.is_err(), "nothing is encapsulated");
    assert_eq!(a.subnet_env()?.mtu, 1500);

    let report = ping_during(&pods, async || {
        a.host.set_down("eth0").await?;
        a.host.set_up("eth0").await?;
        leads_over(&a, "eth0").await
    });
    let report = report.await?;
    println!("host-gw, link down and up: {} of {} lost", report.lost(), report.sent());
    ensure!(report.received() > 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_names_a_peer_that_is_behind_a_gateway_and_takes_it_back() -> anyhow::Result<()> {
    let Pair { deployment, a, b, pods } = pair("gwfar", &["--backend", "host-gw"], false).await?;
    let (peer, gateway): (IpNet, IpAddr) = ("192.0.2.12/32".parse()?, ip("192.0.2.1"));
    a.host.add_route(peer, gateway).await?;
    let named = wait::until("the peer to be named", SOON, async || {
        let status = deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains("192.0.2.12 is not on a link of this host"), "{status}");
        Ok::<_, anyhow::Error>(status)
    });
    let named = named.await?;
    ensure!(named.contains('b'), "{named}");
    ensure!(a.metric("loden_agent_peers_left_out").await? == 1.0);
    a.host.remove_route(peer, gateway).await?;
    leads_over(&a, "eth0").await?;
    drop(b);
    let ping = Ping::to(pods[1].address()).start(&pods[0])?;
    ping.reach(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_moves_between_link_and_tunnel_without_loss() -> anyhow::Result<()> {
    let Pair { deployment: _deployment, a, b, pods } = pair("direct", &["--direct-routing"], false).await?;
    for node in [&a, &b] {
        leads_over(node, "eth0").await?;
    }
    let (peer, gateway): (IpNet, IpAddr) = ("192.0.2.12/32".parse()?, ip("192.0.2.1"));
    let report = ping_during(&pods, async || {
        for _ in 0..3 {
            a.host.add_route(peer, gateway).await?;
            leads_over(&a, TUNNEL).await?;
            a.host.remove_route(peer, gateway).await?;
            leads_over(&a, "eth0").await?;
        }
        Ok(())
    });
    let report = report.await?;
    println!("six moves: {} of {} lost", report.lost(), report.sent());
    assert_eq!(report.lost(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sends_directly_to_a_host_that_filters_strictly() -> anyhow::Result<()> {
    let Pair { deployment: _deployment, a, b, pods } = pair("strict", &["--direct-routing"], true).await?;
    for node in [&a, &b] {
        leads_over(node, TUNNEL).await?;
    }
    let report = ping_during(&pods, async || Ok(())).await?;
    assert_eq!(report.lost(), 0);
    Ok(())
}
