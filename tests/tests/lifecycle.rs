//! What becomes of the NIC below: its cable, its addresses, its MTU, itself. Traffic goes on by itself, or as
//! soon as it can, without a restart of the agent, and often without the agent; also where the host filters
//! strictly by the reverse path.
//!
//! ```text
//!  pod-a ── a ══ eth0 ─── fabric ─── eth0 ══ b ── pod-b
//!                 └─ cable out and in, address, MTU, gone and back
//! ```

#![cfg(test)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_tests::deployment::{Node, Pair, SubnetEnv, Underlay};
use loden_tests::hosts::{Container, cidr, ip};
use loden_tests::repairs::Repairs;
use loden_tests::traffic::{Ping, PingReport};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
const HOST_GW: &[&str] = &["--pool", "10.244.0.0/16", "--backend", "host-gw"];
/// The tunnel of the first VNI over IPv4.
const TUNNEL: &str = "loden1a";

async fn strict(underlay: Underlay, name: &str, network: &[&str]) -> anyhow::Result<Pair> {
    Pair::start_on(underlay, name, network, |node| Ok(node.host.filter_strictly()?)).await
}

/// Notes how long after `since` each family was answered again.
fn note(
    repairs: &mut Repairs,
    what: &str,
    reports: &[(IpAddr, PingReport)],
    since: Instant,
) -> anyhow::Result<()> {
    for (target, report) in reports {
        let restored = report.restored_after(since);
        let after = restored.with_context(|| format!("{what}: {target} does not answer: {report}"))?;
        println!("{what}: {target} answers after {after:.0?}");
        repairs.note(format!("{what}: {target}"), after);
    }
    Ok(())
}

/// Waits until nothing comes through any more.
async fn unanswered(pair: &Pair) -> anyhow::Result<()> {
    for target in pair.pods[1].addresses() {
        let ping = Ping::to(target).start(&pair.pods[0])?;
        let answered = ping.reach(Duration::from_millis(300)).await;
        ping.stop().await?;
        ensure!(answered.is_err(), "without a cable {target} answers");
    }
    Ok(())
}

/// The cable of `a` is pulled and put back, in the end with both agents dead.
async fn survives_its_cable(mut pair: Pair) -> anyhow::Result<()> {
    let mut repairs = Repairs::default();
    for agents in ["run", "are dead"] {
        if agents == "are dead" {
            pair.a.kill9().await?;
            pair.b.kill9().await?;
        }
        let mut plugged = Instant::now();
        let reports = pair.ping_during(async || {
            pair.deployment.fabric.unplug(&pair.a.host, "eth0").await?;
            unanswered(&pair).await?;
            pair.deployment.fabric.replug(&pair.a.host, "eth0").await?;
            plugged = Instant::now();
            Ok(())
        });
        let reports = reports.await.with_context(|| format!("while the agents {agents}"))?;
        note(&mut repairs, &format!("the cable is back, the agents {agents}"), &reports, plugged)?;
    }
    repairs.are_prompt("cables")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv4_survives_its_cable() -> anyhow::Result<()> {
    survives_its_cable(Pair::start(Underlay::V4, "cable-4", DUAL).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv4_survives_its_cable_under_strict_filters() -> anyhow::Result<()> {
    survives_its_cable(strict(Underlay::V4, "cable-4s", DUAL).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv6_survives_its_cable() -> anyhow::Result<()> {
    survives_its_cable(Pair::start(Underlay::V6, "cable-6", DUAL).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_survive_their_cable() -> anyhow::Result<()> {
    survives_its_cable(Pair::start(Underlay::V4, "cable-gw", HOST_GW).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_survive_their_cable_under_strict_filters() -> anyhow::Result<()> {
    survives_its_cable(strict(Underlay::V4, "cable-gws", HOST_GW).await?).await
}

/// `b` gets another underlay address while it is talked to.
async fn survives_another_address(pair: Pair) -> anyhow::Result<()> {
    let (before, mac) = (pair.b.subnet_env()?, pair.b.host.link_address(TUNNEL).await?);
    let mut repairs = Repairs::default();
    let mut moved = Instant::now();
    let reports = pair.ping_during(async || {
        pair.b.host.remove_address("eth0", cidr("192.0.2.12/24")).await?;
        pair.b.host.add_address("eth0", cidr("192.0.2.32/24")).await?;
        moved = Instant::now();
        sends_to(&pair.a, ip("192.0.2.32")).await
    });
    note(&mut repairs, "another underlay address", &reports.await?, moved)?;
    repairs.are_prompt("addresses")?;
    pair.b.ready(SOON).await?;
    ensure!(pair.b.subnet_env()? == before, "it has another subnet: {:?}", pair.b.subnet_env()?);
    ensure!(pair.b.host.link_address(TUNNEL).await? == mac, "its tunnel has another MAC address");
    pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_its_address_keeps_its_subnet_and_is_followed() -> anyhow::Result<()> {
    survives_another_address(Pair::start(Underlay::V4, "moves", DUAL).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_its_address_is_followed_under_strict_filters() -> anyhow::Result<()> {
    survives_another_address(strict(Underlay::V4, "moves-s", DUAL).await?).await
}

/// `a` and `b` swap their underlay addresses while they are talked to, and a third node sends to both.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_swap_their_addresses_keep_their_subnets_and_are_followed() -> anyhow::Result<()> {
    let mut pair = Pair::start(Underlay::V4, "swap", DUAL).await?;
    let c = pair.deployment.add_node("c", 13, &[]).await?;
    c.ready(SOON).await?;
    let pod = c.attach("pod-c").await?;
    let before = (pair.a.subnet_env()?, pair.b.subnet_env()?);
    let swap = async |pair: &Pair, [of_a, of_b]: [&str; 2]| {
        for (node, from, to) in [(&pair.a, of_a, of_b), (&pair.b, of_b, of_a)] {
            node.host.remove_address("eth0", cidr(from)).await?;
            node.host.add_address("eth0", cidr(to)).await?;
        }
        anyhow::Ok(())
    };
    let mut repairs = Repairs::default();
    let mut swapped = Instant::now();
    let reports = pair.ping_during(async || {
        swap(&pair, ["192.0.2.11/24", "192.0.2.12/24"]).await?;
        swapped = Instant::now();
        Ok(())
    });
    note(&mut repairs, "addresses swapped", &reports.await?, swapped)?;
    stand_with(&pair, [ip("192.0.2.12"), ip("192.0.2.11")], &before).await?;

    // And back, by a reboot of both: the agents start with what is taken.
    pair.a.kill9().await?;
    pair.b.kill9().await?;
    swap(&pair, ["192.0.2.12/24", "192.0.2.11/24"]).await?;
    pair.a.start()?;
    pair.b.start()?;
    stand_with(&pair, [ip("192.0.2.11"), ip("192.0.2.12")], &before).await?;
    for target in pair.pods.iter().flat_map(Container::addresses) {
        let ping = Ping::to(target).start(&pod)?;
        ping.reach(SOON).await.with_context(|| format!("{target} is not reached from c"))?;
        ping.stop().await?;
    }
    Ok(())
}

/// Waits until both nodes are known at these addresses; they have the subnets that they had.
async fn stand_with(pair: &Pair, addresses: [IpAddr; 2], had: &(SubnetEnv, SubnetEnv)) -> anyhow::Result<()> {
    for (node, address) in [&pair.a, &pair.b].into_iter().zip(addresses) {
        let known = wait::until("the address to be told", SOON, async || {
            let lease = pair.deployment.lodenctl_json(&["lease", "get", "default", &node.name]).await?;
            ensure!(lease["endpoint"]["address_v4"] == address.to_string(), "{lease}");
            anyhow::Ok(())
        });
        known.await?;
        node.ready(SOON).await?;
    }
    let have = (pair.a.subnet_env()?, pair.b.subnet_env()?);
    ensure!(have == *had, "they had {had:?} and have {have:?}");
    pair.reaches().await
}

/// Addresses come to `b`, as keepalived, kube-vip or somebody by hand sets them, and its agent is killed and started.
/// The kernel names the newest IPv6 address first.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_later_is_not_sent_from_also_after_a_restart() -> anyhow::Result<()> {
    let mut pair = Pair::start(Underlay::V6, "vip", DUAL).await?;
    let own = Underlay::V6.address(12).addr().to_string();
    let reports = pair.ping_during(async || {
        // An IPv4 underlay comes last and is news: when it is told, the others have been seen.
        for later in ["2001:db8::7/128", "2001:db8::8/64", "192.0.2.2/24"] {
            pair.b.host.add_address("eth0", cidr(later)).await?;
        }
        tells(&pair, &own, "192.0.2.2").await
    });
    for (target, report) in reports.await? {
        ensure!(report.lost() == 0, "{target} missed some: {report}");
    }
    pair.b.kill9().await?;
    // News again, of the new agent.
    pair.b.host.remove_address("eth0", cidr("192.0.2.2/24")).await?;
    pair.b.host.add_address("eth0", cidr("192.0.2.3/24")).await?;
    pair.b.start()?;
    tells(&pair, &own, "192.0.2.3").await?;
    pair.reaches().await
}

/// Waits until `b` tells this IPv4 address; its IPv6 address is to be the other one then.
async fn tells(pair: &Pair, v6: &str, v4: &str) -> anyhow::Result<()> {
    let endpoint = wait::until("the IPv4 address to be told", SOON, async || {
        let lease = pair.deployment.lodenctl_json(&["lease", "get", "default", "b"]).await?;
        ensure!(lease["endpoint"]["address_v4"] == v4, "{lease}");
        anyhow::Ok(lease["endpoint"].clone())
    });
    let endpoint = endpoint.await?;
    ensure!(endpoint["address_v6"] == v6, "it sends from {endpoint}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_device_with_another_mtu_is_followed() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "mtu", DUAL).await?;
    pair.a.host.set_mtu("eth0", 1400).await?;
    let begin = Instant::now();
    let followed = wait::until("the tunnel and subnet.env to follow", SOON, async || {
        let (tunnel, file) = (pair.a.host.link_mtu(TUNNEL).await?, pair.a.subnet_env()?.mtu);
        ensure!((tunnel, file) == (1350, 1350), "the tunnel has {tunnel}, the file says {file}");
        anyhow::Ok(())
    });
    followed.await?;
    let mut repairs = Repairs::default();
    repairs.note("another MTU", begin.elapsed());
    repairs.are_prompt("MTUs")?;
    pair.reaches().await
}

/// Waits until `/readyz` of `a` says this, ready or not.
async fn says(pair: &Pair, ready: bool, text: &str) -> anyhow::Result<()> {
    let said = wait::until("readiness to tell", SOON, async || {
        let (status, body) = pair.a.get("/readyz").await?;
        ensure!(status.is_success() == ready && body.contains(text), "it says {status}: {body}");
        anyhow::Ok(())
    });
    Ok(said.await?)
}

/// IPv6 needs 1280 bytes in the tunnel, IPv4 68 (RFC 8200, RFC 791).
async fn survives_small_mtus(pair: Pair, needed: u32) -> anyhow::Result<()> {
    let before = pair.a.subnet_env()?;
    let v4 = pair.pods[1].address();
    pair.a.host.set_mtu("eth0", needed - 1).await?;
    says(&pair, true, &format!("eth0 has an MTU of {}: IPv6 in a tunnel needs {needed}", needed - 1)).await?;
    let told = wait::until("subnet.env to follow", SOON, async || {
        let env = pair.a.subnet_env()?;
        ensure!(env.subnet == before.subnet && env.subnet_v6.is_none(), "it says {env:?}");
        anyhow::Ok(())
    });
    told.await?;
    let ping = Ping::to(v4).start(&pair.pods[0])?;
    ping.reach(SOON).await.context("IPv4 does not go on")?;
    ping.stop().await?;
    let nodes = pair.deployment.lodenctl(&["status"]).await?;
    ensure!(nodes.contains(&format!("needs {needed}")), "{nodes}");

    let least = needed - 1280 + 68;
    pair.a.host.set_mtu("eth0", least - 1).await?;
    says(&pair, false, &format!("eth0 has an MTU of {}: IPv4 in a tunnel needs {least}", least - 1)).await?;
    pair.a.host.set_mtu("eth0", 1500).await?;
    says(&pair, true, "default: 1 peers from server").await?;
    let told = wait::until("subnet.env to be as before", SOON, async || {
        let env = pair.a.subnet_env()?;
        ensure!(env == before, "it says {env:?}");
        anyhow::Ok(())
    });
    told.await?;
    pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mtu_too_small_for_ipv6_leaves_ipv4_and_is_named() -> anyhow::Result<()> {
    survives_small_mtus(Pair::start(Underlay::V4, "small-mtu", DUAL).await?, 1330).await
}

/// The NIC of `b` gets another MAC address while it is talked to.
async fn survives_another_mac(pair: Pair) -> anyhow::Result<()> {
    let mut repairs = Repairs::default();
    for last in [0x71, 0x72, 0x73] {
        let mut changed = Instant::now();
        let reports = pair.ping_during(async || {
            pair.b.host.set_link_address("eth0", [0x02, 0, 0, 0, 0, last]).await?;
            changed = Instant::now();
            Ok(())
        });
        note(&mut repairs, "another MAC address", &reports.await?, changed)?;
    }
    repairs.are_prompt("MAC addresses")
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_survive_another_mac_address() -> anyhow::Result<()> {
    survives_another_mac(Pair::start(Underlay::V4, "mac-gw", HOST_GW).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_over_ipv6_survive_another_mac_address() -> anyhow::Result<()> {
    let network = [DUAL, &["--backend", "host-gw"]].concat();
    survives_another_mac(Pair::start(Underlay::V6, "mac-gw6", &network).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_over_ipv6_survives_another_mac_address_below() -> anyhow::Result<()> {
    survives_another_mac(Pair::start(Underlay::V6, "mac-6", DUAL).await?).await
}

/// The NIC of `a` goes, and comes back with another number.
async fn survives_another_nic(pair: Pair) -> anyhow::Result<()> {
    let (index, mac) = (pair.a.host.link_index("eth0").await?, pair.a.host.link_address(TUNNEL).await?);
    let mut repairs = Repairs::default();
    let mut back = Instant::now();
    let reports = pair.ping_during(async || {
        pair.a.host.delete_link("eth0").await?;
        unanswered(&pair).await?;
        // Something else has taken its number meanwhile, or it would get that again.
        pair.a.host.add_bridge("other", 1500).await?;
        pair.a.host.plug(&pair.deployment.fabric, "eth0", 1500).await?;
        pair.a.host.add_address("eth0", cidr("192.0.2.11/24")).await?;
        back = Instant::now();
        Ok(())
    });
    note(&mut repairs, "another NIC", &reports.await?, back)?;
    repairs.are_prompt("NICs")?;
    ensure!(pair.a.host.link_index("eth0").await? != index, "it has its number again");
    pair.a.ready(SOON).await?;
    pair.reaches().await?;
    ensure!(pair.a.host.link_address(TUNNEL).await? == mac, "its tunnel has another MAC address");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_that_went_and_came_back_as_another_one_is_used_again() -> anyhow::Result<()> {
    survives_another_nic(Pair::start(Underlay::V4, "nic", DUAL).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_that_came_back_as_another_one_is_used_again_under_strict_filters() -> anyhow::Result<()> {
    survives_another_nic(strict(Underlay::V4, "nic-s", DUAL).await?).await
}

/// Waits until a node's only peer is sent to at this address.
async fn sends_to(node: &Node, address: IpAddr) -> anyhow::Result<()> {
    let sent = wait::until("the peer to be followed", SOON, async || {
        let fdb = node.host.tunnel(TUNNEL).await?.fdb;
        ensure!(fdb.values().all(|to| *to == address), "it sends to {fdb:?}");
        anyhow::Ok(())
    });
    Ok(sent.await?)
}
