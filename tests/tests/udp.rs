//! The UDP tunnel between real hosts, run by real agents.

#![cfg(test)]

use std::time::Duration;

use anyhow::ensure;
use loden_tests::deployment::{Node, Pair, Underlay};
use loden_tests::traffic::{Amount, Ping, Transfer};
use loden_tests::wait;
use netlink_packet_route::link::LinkFlags;

const SOON: Duration = Duration::from_secs(30);
const DUAL: &[&str] = &["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48", "--backend", "udp"];
/// The device of the first VNI.
const TUNNEL: &str = "loden1u";

/// Pods of both families reach each other, with pings and with more than a packet.
async fn carries(underlay: Underlay, name: &str) -> anyhow::Result<()> {
    let pair = Pair::start(underlay, name, DUAL).await?;
    pair.reaches().await?;
    for target in pair.pods[1].addresses() {
        let bulk = Transfer::to(target).amount(Amount::Bytes(64 << 20));
        let carried = bulk.run(&pair.pods[0], &pair.pods[1]).await?;
        println!("{target} over {underlay:?}: {:.2} Gbit/s", carried.gbit_per_second());
    }
    for node in [&pair.a, &pair.b] {
        let pods = node.subnet_env()?.mtu;
        ensure!(pods == node.host.link_mtu(TUNNEL).await?, "pods are told {pods}");
    }
    let status = pair.deployment.lodenctl(&["status"]).await?;
    ensure!(status.contains("Every node is converged."), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_both_families_reach_each_other_over_ipv4() -> anyhow::Result<()> {
    carries(Underlay::V4, "udp4").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_both_families_reach_each_other_over_ipv6() -> anyhow::Result<()> {
    carries(Underlay::V6, "udp6").await
}

/// What is left to the kernel is changed for all nodes while packets flow.
#[tokio::test(flavor = "multi_thread")]
async fn offloads_are_switched_off_and_on_without_loss() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "udplimits", DUAL).await?;
    let reports = pair.ping_during(async || {
        let off = ["--udp-offload", "plain", "--udp-single-sends", "--udp-single-receives"];
        let on = ["--udp-offload", "uso", "--no-udp-single-sends", "--no-udp-single-receives"];
        for (flags, offload, merged) in [(&off[..], "plain", 0.0), (&on[..], "uso", 1.0)] {
            pair.deployment.lodenctl(&[&["network", "update", "default"], flags].concat()).await?;
            for node in [&pair.a, &pair.b] {
                let what = format!("{} to leave {offload} to the kernel", node.name);
                let heeded = wait::until(&what, SOON, async || {
                    let (_, metrics) = node.get("/metrics").await?;
                    let rung =
                        format!("loden_agent_tunnel_offload{{device=\"{TUNNEL}\",offload=\"{offload}\"}} 1");
                    ensure!(metrics.contains(&rung), "{metrics}");
                    ensure!(node.metric("loden_agent_tunnel_receives_merged").await? == merged);
                    ensure!(node.metric("loden_agent_tunnel_sends_gathered").await? == merged);
                    anyhow::Ok(())
                });
                heeded.await?;
            }
            let status = pair.deployment.lodenctl(&["status"]).await?;
            ensure!(!status.contains("and no more"), "what is allowed is done: {status}");
            for target in pair.pods[1].addresses() {
                Transfer::to(target)
                    .amount(Amount::Bytes(16 << 20))
                    .run(&pair.pods[0], &pair.pods[1])
                    .await?;
            }
        }
        Ok(())
    });
    for (target, report) in reports.await? {
        ensure!(report.lost() == 0, "{} of {} from {target} lost", report.lost(), report.sent());
    }
    Ok(())
}

/// The device stays, and so does the key: peers need not be told anything before packets flow again.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_takes_its_device_up_again() -> anyhow::Result<()> {
    let mut pair = Pair::start(Underlay::V4, "udpkill", DUAL).await?;
    pair.reaches().await?;
    let index = pair.a.host.link_index(TUNNEL).await?;
    pair.a.kill9().await?;
    wait::until("the device to be nobody's", SOON, async || {
        let flags = pair.a.host.link(TUNNEL).await?.header.flags;
        ensure!(!flags.contains(LinkFlags::LowerUp), "somebody still has it open: {flags:?}");
        anyhow::Ok(())
    })
    .await?;
    // Nobody can be told of another key.
    pair.deployment.control.kill9().await?;
    pair.a.start()?;
    pair.reaches().await?;
    ensure!(pair.a.host.link_index(TUNNEL).await? == index, "the device was made anew");
    Ok(())
}

/// One node receives, and sends, on a port of its own; then on another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_port_of_its_own_is_reached_and_followed() -> anyhow::Result<()> {
    let mut pair = Pair::start(Underlay::V4, "udpport", DUAL).await?;
    for port in ["9285", "9286"] {
        pair.a.stop().await?;
        pair.a.set_flags(&["--udp-port", port]);
        pair.a.start()?;
        pair.a.ready(SOON).await?;
        pair.reaches().await?;
        let lease =
            pair.deployment.lodenctl(&["lease", "get", "default", &pair.a.name, "-o", "json"]).await?;
        ensure!(lease.contains(port), "{lease}");
    }
    Ok(())
}

/// Somebody else holds the descriptors meanwhile: what is sent waits. One that is killed loses what it has in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_held_descriptors_loses_nothing() -> anyhow::Result<()> {
    let mut pair = Pair::start_on(Underlay::V4, "udpheld", DUAL, Node::hold).await?;
    ensure!(pair.a.held() == ["loden1u", "udp-8285-c000020b"], "{:?}", pair.a.held());
    for round in 1..=3 {
        let lost = pings_while_restarted(&mut pair, Node::stop).await?;
        ensure!(lost == 0, "{lost} packets were lost in round {round}");
    }
    let lost = pings_while_restarted(&mut pair, Node::kill9).await?;
    // A request and a reply in each family.
    ensure!(lost <= 4, "{lost} packets were lost with the one that was killed");
    Ok(())
}

/// Ends the first agent while its pod pings in both families, every 5 ms, and starts it again; answers how many echo
/// requests had no reply.
async fn pings_while_restarted(
    pair: &mut Pair,
    end: impl AsyncFnOnce(&mut Node) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut pings = Vec::new();
    for target in pair.pods[1].addresses() {
        let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&pair.pods[0])?;
        ping.reach(SOON).await?;
        pings.push(ping);
    }
    end(&mut pair.a).await?;
    // Many are sent meanwhile.
    ensure!(pings[0].reach(Duration::from_millis(200)).await.is_err(), "somebody has answered");
    let flags = pair.a.host.link(TUNNEL).await?.header.flags;
    ensure!(flags.contains(LinkFlags::LowerUp), "nobody has the device open: {flags:?}");
    pair.a.start()?;
    pair.a.ready(SOON).await?;
    let mut lost = 0;
    for ping in pings {
        ping.reach(SOON).await?;
        let report = ping.stop().await?;
        println!(
            "{} of {} lost, the longest round trip took {:?}",
            report.lost(),
            report.sent(),
            report.quantile(1.0)
        );
        lost += report.lost();
    }
    Ok(lost)
}
