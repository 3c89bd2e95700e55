//! Next hops between real hosts: the backend host-gw, and VXLAN with direct routing. Real processes,
//! pings through the real kernel, also on hosts that filter strictly by the reverse path.

#![cfg(test)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_tests::deployment::{Deployment, Node, Pair, Underlay};
use loden_tests::traffic::PingReport;
use loden_tests::wait;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};

const SOON: Duration = Duration::from_secs(30);
const V4: &[&str] = &["--pool", "10.244.0.0/16"];
const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
/// The device of the underlay.
const LINK: &str = "eth0";

/// How the hosts filter by the reverse path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Filter {
    Off,
    Strict,
}

struct Stage {
    pair: Pair,
    underlay: Underlay,
    /// Routes of each node to the other: one per pool.
    routes: usize,
}

impl Stage {
    /// Both nodes are on one segment, and the control plane's host forwards between them for whoever asks it to.
    async fn set(
        underlay: Underlay,
        name: &str,
        pools: &[&str],
        backend: &[&str],
        filter: Filter,
    ) -> anyhow::Result<Self> {
        let network = [pools, backend].concat();
        let pair = Pair::start_on(underlay, name, &network, |node| match filter {
            Filter::Off => Ok(()),
            Filter::Strict => Ok(node.host.filter_strictly()?),
        });
        let pair = pair.await?;
        // A redirect would undo the detour (RFC 792); hosts that forward take none of IPv6 (RFC 4861, 8.2).
        for interface in ["all", LINK] {
            let key = format!("net.ipv4.conf.{interface}.send_redirects");
            pair.deployment.control.host.sysctl(&key, "0")?;
        }
        Ok(Self { pair, underlay, routes: pools.len() / 2 })
    }

    /// The tunnel of the first VNI.
    fn tunnel(&self) -> &'static str {
        match self.underlay {
            Underlay::V4 => "loden1a",
            Underlay::V6 => "loden1b",
        }
    }

    /// The underlay address of `b`, and that of the one who forwards to it.
    fn detour(&self) -> anyhow::Result<(IpNet, IpAddr)> {
        let (peer, router) = (self.underlay.address(12).addr(), self.underlay.address(1).addr());
        Ok((IpNet::new(peer, if peer.is_ipv4() { 32 } else { 128 })?, router))
    }

    /// `a` sends to `b` by way of somebody else: `b` is on no link of it any more.
    async fn part(&self) -> anyhow::Result<()> {
        let (peer, router) = self.detour()?;
        Ok(self.pair.a.host.add_route(peer, router).await?)
    }

    /// Ends what [`Self::part`] began.
    async fn join(&self) -> anyhow::Result<()> {
        let (peer, router) = self.detour()?;
        Ok(self.pair.a.host.remove_route(peer, router).await?)
    }

    /// Waits until every route of ours on a node leads over this device.
    async fn leads_over(&self, node: &Node, device: &str) -> anyhow::Result<()> {
        let what = format!("the routes of {} to lead over {device}", node.name);
        let there = wait::until(&what, SOON, async || {
            let wanted = node.host.link_index(device).await?;
            let routes = node.host.routes().await?;
            let is_ours = |route: &&RouteMessage| route.header.protocol == RouteProtocol::Other(76);
            let ours: Vec<&RouteMessage> = routes.iter().filter(is_ours).collect();
            let leads = |route: &&RouteMessage| route.attributes.contains(&RouteAttribute::Oif(wanted));
            ensure!(ours.len() == self.routes && ours.iter().all(leads), "they are {ours:?}");
            Ok::<_, anyhow::Error>(())
        });
        Ok(there.await?)
    }
}

/// Prints how many answers did not come; answers their number.
fn lost(what: &str, reports: &[(IpAddr, PingReport)]) -> usize {
    for (target, report) in reports {
        println!("{what}: {} of {} from {target} lost", report.lost(), report.sent());
    }
    reports.iter().map(|(_, report)| report.lost()).sum()
}

/// Nothing is encapsulated, and a link that was down has its routes again.
async fn host_gw_comes_back(filter: Filter, name: &str) -> anyhow::Result<()> {
    let stage = Stage::set(Underlay::V4, name, V4, &["--backend", "host-gw"], filter).await?;
    let Pair { a, b, .. } = &stage.pair;
    for node in [a, b] {
        stage.leads_over(node, LINK).await?;
    }
    ensure!(a.host.link(stage.tunnel()).await.is_err(), "nothing is encapsulated");
    assert_eq!(a.subnet_env()?.mtu, 1500);

    let reports = stage.pair.ping_during(async || {
        a.host.set_down(LINK).await?;
        a.host.set_up(LINK).await?;
        stage.leads_over(a, LINK).await
    });
    lost("host-gw, link down and up", &reports.await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_forwards_without_a_tunnel_and_comes_back_after_a_link_was_down() -> anyhow::Result<()> {
    host_gw_comes_back(Filter::Off, "hostgw").await
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_comes_back_after_a_link_was_down_under_strict_filters() -> anyhow::Result<()> {
    host_gw_comes_back(Filter::Strict, "hostgw-s").await
}

/// A peer behind a gateway is no next hop: it is named, and taken back when it is on a link again.
async fn host_gw_names_a_far_peer(filter: Filter, name: &str) -> anyhow::Result<()> {
    let stage = Stage::set(Underlay::V4, name, V4, &["--backend", "host-gw"], filter).await?;
    let Pair { deployment, a, .. } = &stage.pair;
    stage.part().await?;
    let named = wait::until("the peer to be named", SOON, async || {
        let status = deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains("192.0.2.12 is not on a link of this host"), "{status}");
        Ok::<_, anyhow::Error>(status)
    });
    let named = named.await?;
    ensure!(named.contains('b'), "{named}");
    ensure!(a.metric("loden_agent_peers_left_out").await? == 1.0);
    let (_, metrics) = a.get("/metrics").await?;
    let told = r#"{network="default",peer="b",reason="its underlay address 192.0.2.12 is not on a link"#;
    ensure!(
        metrics.contains(&format!("loden_agent_peer_left_out_since_timestamp_seconds{told}")),
        "{metrics}"
    );
    let passes = r#"loden_agent_passes_total{network="default",reason="underlay"} "#;
    ensure!(metrics.contains(passes), "{metrics}");
    ensure!(a.metric("loden_agent_steps_refused_total").await? == 0.0);
    stage.join().await?;
    stage.leads_over(a, LINK).await?;
    stage.pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_names_a_peer_that_is_behind_a_gateway_and_takes_it_back() -> anyhow::Result<()> {
    host_gw_names_a_far_peer(Filter::Off, "gwfar").await
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_names_a_peer_behind_a_gateway_under_strict_filters() -> anyhow::Result<()> {
    host_gw_names_a_far_peer(Filter::Strict, "gwfar-s").await
}

/// IPv4 goes by way of an IPv6 next hop (RFC 5549).
#[tokio::test(flavor = "multi_thread")]
async fn host_gw_forwards_both_families_over_an_ipv6_underlay_alone() -> anyhow::Result<()> {
    let stage = Stage::set(Underlay::V6, "hostgw-6", DUAL, &["--backend", "host-gw"], Filter::Off).await?;
    let Pair { a, b, .. } = &stage.pair;
    for node in [a, b] {
        stage.leads_over(node, LINK).await?;
    }
    ensure!(a.host.link(stage.tunnel()).await.is_err(), "nothing is encapsulated");
    stage.pair.reaches().await
}

/// Nobody could send to such an address as a next hop.
#[tokio::test(flavor = "multi_thread")]
async fn host_gw_refuses_to_advertise_an_address_that_is_not_the_interfaces_own() -> anyhow::Result<()> {
    let deployment = Deployment::start("gwpublic", &[]).await?;
    let network = [&["network", "create", "default"], V4, &["--backend", "host-gw"]].concat();
    deployment.lodenctl(&network).await?;
    let mut node = deployment.prepare_node("a", 11, &["--public-ip", "198.51.100.7"]).await?;
    // By the other family it could be reached.
    node.host.add_address(LINK, "2001:db8::11/64".parse()?).await?;
    node.start()?;
    let wanted = "the address 198.51.100.7 is advertised and is not one of eth0";
    let told = wait::until("the address to be refused", SOON, async || {
        let (_, ready) = node.get("/readyz").await?;
        ensure!(ready.contains("not ready") && ready.contains(wanted), "{ready}");
        let status = deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains(wanted), "{status}");
        Ok::<_, anyhow::Error>(())
    });
    told.await?;
    assert!(!node.subnet_file().exists(), "no pod is to start");
    Ok(())
}

/// A peer moves three times from the link to the tunnel and back, in every family of the network.
async fn moves_without_loss(underlay: Underlay, name: &str, pools: &[&str]) -> anyhow::Result<()> {
    let stage = Stage::set(underlay, name, pools, &["--direct-routing"], Filter::Off).await?;
    let Pair { a, b, .. } = &stage.pair;
    for node in [a, b] {
        stage.leads_over(node, LINK).await?;
    }
    let reports = stage.pair.ping_during(async || {
        for _ in 0..3 {
            stage.part().await?;
            stage.leads_over(a, stage.tunnel()).await?;
            stage.join().await?;
            stage.leads_over(a, LINK).await?;
        }
        Ok(())
    });
    assert_eq!(lost("six moves", &reports.await?), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_moves_between_link_and_tunnel_without_loss() -> anyhow::Result<()> {
    moves_without_loss(Underlay::V4, "direct", V4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_both_families_moves_over_an_ipv6_underlay_without_loss() -> anyhow::Result<()> {
    moves_without_loss(Underlay::V6, "direct-6", DUAL).await
}

/// Direct routing is switched on and off three times, in every family of the network.
async fn is_switched_without_loss(underlay: Underlay, name: &str, pools: &[&str]) -> anyhow::Result<()> {
    let mut stage = Stage::set(underlay, name, pools, &[], Filter::Off).await?;
    let switches = [("--direct-routing", LINK), ("--no-direct-routing", stage.tunnel())];
    let reports = stage.pair.ping_during(async || {
        for (flag, device) in switches.repeat(3) {
            stage.pair.deployment.lodenctl(&["network", "update", "default", flag]).await?;
            for node in [&stage.pair.a, &stage.pair.b] {
                stage.leads_over(node, device).await?;
            }
        }
        Ok(())
    });
    assert_eq!(lost("six switches", &reports.await?), 0);

    // Whoever was away meanwhile comes with what the network had before.
    for (flag, device) in switches {
        stage.pair.b.kill9().await?;
        stage.pair.deployment.lodenctl(&["network", "update", "default", flag]).await?;
        stage.pair.b.start()?;
        for node in [&stage.pair.a, &stage.pair.b] {
            stage.leads_over(node, device).await.with_context(|| format!("b was away: {flag}"))?;
        }
        stage.pair.reaches().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_routing_is_switched_without_loss() -> anyhow::Result<()> {
    is_switched_without_loss(Underlay::V4, "switch", V4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_routing_is_switched_without_loss_over_an_ipv6_underlay() -> anyhow::Result<()> {
    is_switched_without_loss(Underlay::V6, "switch-6", DUAL).await
}

/// Who filters strictly would drop what comes by another way than it sends, as it does while a peer moves. So
/// nobody is sent to directly, and nothing moves when the ways do.
async fn stays_in_the_tunnel(underlay: Underlay, name: &str, pools: &[&str]) -> anyhow::Result<()> {
    let stage = Stage::set(underlay, name, pools, &["--direct-routing"], Filter::Strict).await?;
    let Pair { a, b, deployment, .. } = &stage.pair;
    for node in [a, b] {
        stage.leads_over(node, stage.tunnel()).await?;
    }
    let told = wait::until("the reason to be told", SOON, async || {
        let status = deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains("rp_filter is 1 (strict)"), "{status}");
        Ok::<_, anyhow::Error>(())
    });
    told.await?;
    let reports = stage.pair.ping_during(async || {
        for _ in 0..3 {
            stage.part().await?;
            stage.pair.reaches().await?;
            stage.join().await?;
            stage.pair.reaches().await?;
        }
        stage.leads_over(a, stage.tunnel()).await
    });
    assert_eq!(lost("six changes of the way, strict filters", &reports.await?), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sends_directly_to_a_host_that_filters_strictly() -> anyhow::Result<()> {
    stays_in_the_tunnel(Underlay::V4, "strict", V4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sends_directly_over_an_ipv6_underlay_to_a_host_that_filters_strictly() -> anyhow::Result<()> {
    stays_in_the_tunnel(Underlay::V6, "strict-6", DUAL).await
}

/// One that stops filtering strictly is sent to directly, and one that begins to is not: while packets come.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_changes_moves_the_peers_and_leaves_them_reachable() -> anyhow::Result<()> {
    let stage = Stage::set(Underlay::V4, "filters", V4, &["--direct-routing"], Filter::Strict).await?;
    let Pair { a, b, .. } = &stage.pair;
    let reports = stage.pair.ping_during(async || {
        for (value, device) in [("2", LINK), ("1", stage.tunnel())] {
            b.host.sysctl(&format!("net.ipv4.conf.{LINK}.rp_filter"), value)?;
            stage.leads_over(a, device).await.with_context(|| format!("with rp_filter {value} at b"))?;
        }
        Ok(())
    });
    lost("a filter off and on", &reports.await?);
    stage.pair.reaches().await
}
