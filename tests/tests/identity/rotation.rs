//! Certificates are renewed again and again, on both sides, and nobody notices.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_tests::client::{acquire, vtep_on_segment};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::route_prefix;
use loden_tests::traffic::Ping;
use loden_tests::wait;
use tokio::time::sleep;

use super::{SOON, joined};

/// How long certificates live: renewed after 2 s, and with as much left for a machine that is busy.
const LIFE: &str = "4s";
/// How often each one is renewed.
const ROUNDS: f64 = 100.0;
const RENEWALS: &str = "loden_agent_certificate_renewals_total";
/// How late an update may be on a busy machine; what it was is printed.
const LATE: Duration = Duration::from_secs(1);

/// How long until all nodes have a route to a subnet, or none has.
async fn until_known(nodes: &[&Node], subnet: &str, wanted: bool) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    wait::until(&format!("{subnet} to be known: {wanted}"), SOON, async || {
        for node in nodes {
            let routes = node.host.routes().await?;
            let known = routes.iter().filter_map(route_prefix).any(|prefix| prefix.to_string() == subnet);
            ensure!(known == wanted, "not at {}", node.name);
        }
        anyhow::Ok(())
    })
    .await?;
    Ok(begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_rotations_of_every_certificate_lose_no_packet_and_no_update() -> anyhow::Result<()> {
    let deployment = Deployment::start("rotation", &["--certificate-validity", LIFE]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let vni = deployment.lodenctl_json(&["network", "get", "default"]).await?["vni"].as_u64();
    let vni = u32::try_from(vni.context("a network without a VNI")?)?;
    let (a, b) = (joined(&deployment, "a", 11).await?, joined(&deployment, "b", 12).await?);
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    let target = pods[1].addresses().next().context("a pod without an address")?;
    let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&pods[0])?;
    ping.reach(SOON).await?;

    // A node whose certificate lasts comes and goes.
    let third = deployment.lab.directory().join("third");
    deployment.control.issue("node", "c", &third).await?;
    let channel = deployment.control.channel(&third).await?;
    let mut client = LeaseServiceClient::new(channel.clone());
    let nodes = [&a, &b];
    let mut latest = Duration::ZERO;
    let mut updates = 0;
    let begun = Instant::now();
    loop {
        let lease = acquire(&channel, "default", 1, vtep_on_segment(13, vni)).await?;
        let subnet = lease.subnets.first().context("a lease without a subnet")?;
        latest = latest.max(until_known(&nodes, subnet, true).await?);
        let release = v1::ReleaseLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
        client.release_lease(release).await?;
        latest = latest.max(until_known(&nodes, subnet, false).await?);
        updates += 2;
        let renewals = a.metric(RENEWALS).await?.min(b.metric(RENEWALS).await?);
        if renewals >= ROUNDS {
            break;
        }
        let limit = Duration::from_secs(10 * ROUNDS as u64);
        ensure!(begun.elapsed() < limit, "{renewals} renewals in {:?}", begun.elapsed());
        sleep(Duration::from_millis(300)).await;
    }
    let report = ping.stop().await?;
    let problems = [&a, &b].map(|node| node.metric("loden_agent_certificate_renewal_failures_total"));
    for problem in problems {
        ensure!(problem.await? == 0.0, "a renewal has failed");
    }
    println!(
        "{ROUNDS} rounds in {:?}: {} pings, {} lost; {updates} updates, the latest after {latest:?}",
        begun.elapsed(),
        report.sent(),
        report.lost()
    );
    ensure!(report.lost() == 0, "{} of {} lost", report.lost(), report.sent());
    ensure!(latest < LATE, "an update took {latest:?}");
    Ok(())
}

fn roots(node: &Node) -> anyhow::Result<usize> {
    let trusted = std::fs::read_to_string(node.home.join("identity/ca.crt"))?;
    Ok(trusted.matches("BEGIN CERTIFICATE").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_changed_under_traffic_and_nobody_has_to_join_again() -> anyhow::Result<()> {
    let mut deployment = Deployment::start("newca", &[]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let (mut a, b) = (joined(&deployment, "a", 11).await?, joined(&deployment, "b", 12).await?);
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    let target = pods[1].addresses().next().context("a pod without an address")?;
    let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&pods[0])?;
    ping.reach(SOON).await?;

    let rotated = deployment.lodenctl_json(&["ca", "rotate"]).await?;
    ensure!(rotated["phase"] == "issuing" && rotated["nodes_current"] == 2, "{rotated}");
    ensure!(roots(&a)? == 2 && roots(&b)? == 2, "{} and {} are trusted", roots(&a)?, roots(&b)?);
    let early = deployment.run_lodenctl(&["ca", "retire"]).await?;
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    ensure!(early.status.code() == Some(1) && said.contains("may be good until"), "{said}");
    deployment.lodenctl(&["ca", "retire", "--force"]).await?;
    wait::until("everybody to trust the new CA alone", SOON, async || {
        ensure!(roots(&a)? == 1 && roots(&b)? == 1, "{} and {} are trusted", roots(&a)?, roots(&b)?);
        anyhow::Ok(())
    })
    .await?;

    deployment.control.kill9().await?;
    deployment.control.start().await?;
    a.stop().await?;
    a.start()?;
    a.ready(SOON).await?;
    let c = joined(&deployment, "c", 13).await?;
    until_known(&[&a, &b], &c.subnet_env()?.subnet.trunc().to_string(), true).await?;
    let report = ping.stop().await?;
    ensure!(report.lost() == 0, "{} of {} lost", report.lost(), report.sent());
    Ok(())
}
