//! Networks of both families: their pods reach each other over an IPv4 underlay, and over one that has
//! nothing but IPv6, where the agents reach the control plane over it as well.
//!
//! ```text
//!  pod-a ── a ─┐  192.0.2.0/24 or 2001:db8::/64  ┌─ b ── pod-b      10.244.0.0/16
//!              ├─────────────────────────────────┤                  fd00:244::/48
//!           control                              └─ c ── pod-c, which comes last
//! ```

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::model::Family;
use loden_tests::deployment::{Deployment, Node, Pair, Underlay};
use loden_tests::hosts::Container;
use loden_tests::traffic::Ping;
use loden_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [(&str, u8); 3] = [("a", 11), ("b", 12), ("c", 13)];
/// Of the hosts' interfaces, in bytes.
const MTU: u32 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_in_both_families_over_an_ipv4_underlay() -> anyhow::Result<()> {
    both_families_work(Underlay::V4, "both-over-4", "loden1a", 50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_in_both_families_over_an_ipv6_underlay_alone() -> anyhow::Result<()> {
    both_families_work(Underlay::V6, "both-over-6", "loden1b", 70).await
}

/// `device` is the tunnel's, `overhead` what it costs in bytes.
async fn both_families_work(
    underlay: Underlay,
    name: &str,
    device: &str,
    overhead: u32,
) -> anyhow::Result<()> {
    let mut deployment = Deployment::start_over(underlay, name, &[]).await?;
    let pools = ["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
    deployment.lodenctl(&[&["network", "create", "default"], &pools[..]].concat()).await?;
    let mut pods = Vec::new();
    for (name, number) in NODES {
        let node = deployment.add_node(name, number, &[]).await?;
        node.ready(PATIENCE).await?;
        let env = node.subnet_env()?;
        ensure!(env.mtu == MTU - overhead, "{name}: {env:?}");
        let pod = node.attach(&format!("pod-{name}")).await?;
        ensure!(pod.addresses().count() == 2, "{name}: {env:?}");
        pods.push((node, pod));
    }
    all_reach_all(&pods).await?;
    for ((node, _), (_, number)) in pods.iter().zip(NODES) {
        only_this_family(&deployment, node, underlay.address(number).addr()).await?;
        let others = NODES.iter().filter(|(other, _)| *other != node.name);
        let expected: BTreeSet<_> = others.map(|(_, number)| underlay.address(*number).addr()).collect();
        let tunnel = node.host.tunnel(device).await?;
        let sends_to: BTreeSet<_> = tunnel.fdb.values().copied().collect();
        ensure!(sends_to == expected, "{} sends to {sends_to:?}", node.name);
        // A subnet of each family for each of the others.
        ensure!(tunnel.routes.len() == 4, "{} has the routes {:?}", node.name, tunnel.routes);
    }

    // Everything that is not a kernel starts anew.
    deployment.control.kill9().await?;
    deployment.control.start().await?;
    for (node, _) in &mut pods {
        node.kill9().await?;
        node.start()?;
    }
    for (node, _) in &pods {
        node.ready(PATIENCE).await?;
    }
    all_reach_all(&pods).await
}

/// Agents that run take it up, and what is there already notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_another_family_is_taken_up_without_a_restart() -> anyhow::Result<()> {
    let mut pair = Pair::start(Underlay::V4, "added", &["--pool", "10.244.0.0/16"]).await?;
    let before = [pair.a.subnet_env()?, pair.b.subnet_env()?];
    let reports = pair.ping_during(async || {
        pair.deployment.lodenctl(&["network", "update", "default", "--add-pool", "fd00:244::/48"]).await?;
        let begin = Instant::now();
        for node in [&pair.a, &pair.b] {
            gives(node, &[Family::V4, Family::V6]).await?;
        }
        println!("both have a subnet of the added pool after {:.0?}", begin.elapsed());
        Ok(())
    });
    for (target, report) in reports.await? {
        ensure!(report.lost() == 0, "{target} missed some: {report}");
    }
    for (node, before) in [&pair.a, &pair.b].into_iter().zip(before) {
        ensure!(node.subnet_env()?.subnet == before.subnet, "{}: {:?}", node.name, node.subnet_env()?);
    }
    pair.a.extend(&mut pair.pods[0]).await?;
    pair.b.extend(&mut pair.pods[1]).await?;
    pair.reaches().await
}

/// A host of which IPv6 is switched off, and on, as a whole and on the tunnel, without a loss of what is IPv4.
#[tokio::test(flavor = "multi_thread")]
async fn ipv4_works_on_a_host_without_ipv6_and_ipv6_as_soon_as_there_is_any() -> anyhow::Result<()> {
    const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
    let off = |place: &str| format!("net.ipv6.conf.{place}.disable_ipv6");
    let started = Pair::start_on(Underlay::V4, "without-6", DUAL, |node| match node.name.as_str() {
        "b" => Ok(node.host.sysctl(&off("all"), "1")?),
        _ => Ok(()),
    });
    let mut pair = started.await?;
    gives(&pair.b, &[Family::V4]).await?;
    gives(&pair.a, &[Family::V4, Family::V6]).await?;
    warns(&pair, &off("all")).await?;
    let reports = pair.ping_during(async || {
        for place in ["all", "loden1a"] {
            pair.b.host.sysctl(&off(place), "1")?;
            gives(&pair.b, &[Family::V4]).await?;
            warns(&pair, &off(place)).await?;
            pair.b.host.sysctl(&off(place), "0")?;
            let begin = Instant::now();
            gives(&pair.b, &[Family::V4, Family::V6]).await?;
            println!("IPv6 of {place} is back after {:.0?}", begin.elapsed());
            let text = pair.b.ready(PATIENCE).await?;
            ensure!(!text.contains("warning"), "{text}");
        }
        Ok(())
    });
    for (target, report) in reports.await? {
        ensure!(report.lost() == 0, "{target} missed some: {report}");
    }
    pair.b.extend(&mut pair.pods[1]).await?;
    pair.reaches().await
}

/// The second node is ready, and says in `/readyz` and in its status that a setting is in the way of IPv6.
async fn warns(pair: &Pair, setting: &str) -> anyhow::Result<()> {
    let why = format!("{setting} is 1: nothing of the network's IPv6 works on this host");
    let told = wait::until("the warning", PATIENCE, async || {
        let text = pair.b.ready(PATIENCE).await?;
        ensure!(text.contains(&why), "{text}");
        let status = pair.deployment.lodenctl_json(&["node", "get", "b"]).await?.to_string();
        ensure!(status.contains(&why), "{status}");
        anyhow::Ok(())
    });
    Ok(told.await?)
}

/// Waits until both files that pods start from name subnets of these families and no other ones.
async fn gives(node: &Node, families: &[Family]) -> anyhow::Result<()> {
    let conflist = node.cni_config_dir().join("10-loden-default.conflist");
    let given = wait::until("the files for pods", PATIENCE, async || {
        let env = std::fs::read_to_string(node.subnet_file())?;
        let list = std::fs::read_to_string(&conflist)?;
        for (family, key, way_out) in
            [(Family::V4, "FLANNEL_SUBNET", "0.0.0.0/0"), (Family::V6, "FLANNEL_IPV6_SUBNET", "::/0")]
        {
            let wanted = families.contains(&family);
            let quoted = format!("\"{way_out}\"");
            ensure!(env.contains(key) == wanted && list.contains(&quoted) == wanted, "{env}\n{list}");
        }
        anyhow::Ok(())
    });
    given.await.with_context(|| node.name.clone())
}

/// Every pod answers every other one in each family, also packets as long as the MTU lets them be.
async fn all_reach_all(pods: &[(Node, Container)]) -> anyhow::Result<()> {
    for (from, pod) in pods {
        let mtu = usize::try_from(from.subnet_env()?.mtu)?;
        for (to, other) in pods.iter().filter(|(to, _)| to.name != from.name) {
            for target in other.addresses() {
                let header = if target.is_ipv4() { 20 } else { 40 };
                let ping = Ping::to(target).size(mtu - header).start(pod)?;
                let reached = ping.reach(PATIENCE).await;
                reached.with_context(|| format!("from {} to {}", from.name, to.name))?;
                ping.stop().await?;
            }
        }
    }
    Ok(())
}

/// The control plane tells others this address of the node, and none of the other family.
async fn only_this_family(deployment: &Deployment, node: &Node, address: IpAddr) -> anyhow::Result<()> {
    let lease = deployment.lodenctl_json(&["lease", "get", "default", &node.name]).await?;
    let endpoint = &lease["endpoint"];
    let (this, other) = match address {
        IpAddr::V4(_) => ("address_v4", "address_v6"),
        IpAddr::V6(_) => ("address_v6", "address_v4"),
    };
    ensure!(endpoint[this] == address.to_string() && endpoint[other].is_null(), "{lease}");
    Ok(())
}

/// A host that is no router asks for one wherever it has a link-local address, and shall not do so in a tunnel.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_for_routers_in_a_tunnel() -> anyhow::Result<()> {
    let deployment = Deployment::start("solicit", &[]).await?;
    deployment.lodenctl(&["network", "create", "default", "--pool", "fd00:244::/48"]).await?;
    let mut node = deployment.prepare_node("a", 11, &[]).await?;
    for (key, value) in [("all.forwarding", "0"), ("default.router_solicitation_delay", "0")] {
        node.host.sysctl(&format!("net.ipv6.conf.{key}"), value)?;
    }
    node.start()?;
    let there = wait::until("the tunnel's address", PATIENCE, async || {
        let tunnel = node.host.link_index("loden1a").await?;
        let addresses = node.host.addresses().await?;
        ensure!(addresses.iter().any(|address| address.header.index == tunnel), "{addresses:?}");
        anyhow::Ok(())
    });
    there.await?;
    // One that the kernel looks after, made later, is the clock.
    node.host.iproute("ip link add other type vxlan id 9 dev eth0 dstport 4789 nolearning").await?;
    node.host.iproute("ip link set other up").await?;
    let asked = wait::until("the other tunnel to ask", PATIENCE, async || {
        ensure!(solicitations(&node, "other")? > 0, "it has not asked");
        anyhow::Ok(())
    });
    asked.await?;
    ensure!(solicitations(&node, "loden1a")? == 0, "a router was asked for in the tunnel");
    Ok(())
}

/// Router solicitations (RFC 4861) that a device has sent.
fn solicitations(node: &Node, device: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/thread-self/net/dev_snmp6/{device}");
    let counters = node.host.enter(|| std::fs::read_to_string(&path))?;
    let counter = counters.lines().find_map(|line| line.strip_prefix("Icmp6OutRouterSolicits"));
    Ok(counter.with_context(|| format!("{path} does not count them"))?.trim().parse()?)
}
