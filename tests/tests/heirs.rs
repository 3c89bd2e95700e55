//! A network that was deleted, and another one that was created with what was its own: agents that serve both give
//! everything to the new one, and go on so after a crash.
//!
//! ```text
//!  blue 10.8.0.0/16, VNI 8 ── deleted;  green ── created with its pool, its VNI or both
//! ```

#![cfg(test)]

use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::Container;
use loden_tests::traffic::Ping;
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
/// In which two owners of one route would write it several times.
const WHILE: Duration = Duration::from_secs(2);
const FLAGS: &[&str] = &["--network", "green", "--network", "blue"];
const BLUE: &str = "10.8.0.0/16";
const CREATE_BLUE: [&str; 7] = ["network", "create", "blue", "--pool", BLUE, "--vni", "8"];
const CONFLIST: &str = "20-loden-blue.conflist";

/// Waits until `/readyz` says all of this.
async fn says(node: &Node, parts: &[&str]) -> anyhow::Result<()> {
    let said = wait::until("readiness to tell", SOON, async || {
        let (_, text) = node.get("/readyz").await?;
        let lacking = parts.iter().find(|part| !text.contains(**part));
        ensure!(lacking.is_none(), "{} says {text}", node.name);
        anyhow::Ok(())
    });
    Ok(said.await?)
}

/// What was ever written to the kernel, for all networks.
async fn writes(node: &Node) -> anyhow::Result<u64> {
    let (_, text) = node.get("/metrics").await?;
    let lines = text.lines().filter(|line| line.starts_with("loden_agent_kernel_writes_total{"));
    let counts = lines.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<u64>()?));
    counts.sum()
}

/// No packet is lost and nothing is written.
async fn is_quiet(nodes: [&Node; 2], pods: &[Container; 2]) -> anyhow::Result<()> {
    let ping = Ping::to(pods[1].address()).start(&pods[0])?;
    ping.reach(SOON).await?;
    let before = [writes(nodes[0]).await?, writes(nodes[1]).await?];
    tokio::time::sleep(WHILE).await;
    let after = [writes(nodes[0]).await?, writes(nodes[1]).await?];
    let report = ping.stop().await?;
    ensure!(report.lost() == 0, "green loses packets: {report}");
    ensure!(before == after, "the kernel is written to: {before:?}, {after:?}");
    Ok(())
}

/// Neither in the kernel nor on the disk.
async fn nothing_of_blue_is_left(node: &Node) -> anyhow::Result<()> {
    let conflist = node.cni_config_dir().join(CONFLIST);
    let gone = wait::until("blue's CNI configuration to go", SOON, async || {
        ensure!(!conflist.exists(), "{} is there", conflist.display());
        anyhow::Ok(())
    });
    gone.await?;
    ensure!(!node.home.join("state/networks/blue.state").exists(), "blue is still on disk");
    let links = format!("{:?}", node.host.links().await?);
    ensure!(!links.contains("loden:blue:"), "a device of blue is there: {links}");
    Ok(())
}

/// And back: one of the agents has ended blue itself, the other one was started since.
async fn blue_comes_back(deployment: &Deployment, nodes: [&Node; 2]) -> anyhow::Result<()> {
    deployment.lodenctl(&["network", "delete", "green", "--force"]).await?;
    wait::until("the cooldown", SOON, async || deployment.lodenctl(&CREATE_BLUE).await).await?;
    for node in nodes {
        says(node, &["blue: 1 peers from server", "belongs to the network blue now"]).await?;
    }
    Ok(())
}

async fn inherits(name: &str, green: &[&str], what: &str) -> anyhow::Result<()> {
    let deployment = Deployment::start(name, &["--cooldown", "1s"]).await?;
    deployment.lodenctl(&CREATE_BLUE).await?;
    let mut a = deployment.add_node("a", 11, FLAGS).await?;
    let b = deployment.add_node("b", 12, FLAGS).await?;
    for node in [&a, &b] {
        says(node, &["blue: 1 peers from server"]).await?;
        ensure!(node.host.link("loden8a").await.is_ok(), "blue is not programmed");
        ensure!(node.cni_config_dir().join(CONFLIST).exists(), "blue has no CNI configuration");
    }
    deployment.lodenctl(&["network", "delete", "blue", "--force"]).await?;
    for node in [&a, &b] {
        says(node, &["blue: NOT_FOUND"]).await?;
        ensure!(node.host.link("loden8a").await.is_ok(), "forwarding has ended with the network");
    }
    let create = [&["network", "create", "green"], green].concat();
    wait::until("the cooldown", SOON, async || deployment.lodenctl(&create).await).await?;

    let told = format!("blue: its {what} belongs to the network green now; nothing is programmed");
    for node in [&a, &b] {
        says(node, &["green: 1 peers from server", &told]).await?;
        nothing_of_blue_is_left(node).await?;
    }
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    is_quiet([&a, &b], &pods).await?;
    a.kill9().await?;
    a.start()?;
    says(&a, &["green: 1 peers from server"]).await?;
    is_quiet([&a, &b], &pods).await?;

    blue_comes_back(&deployment, [&a, &b]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_network_has_the_pool_of_one_that_was_deleted() -> anyhow::Result<()> {
    inherits("heir-pool", &["--pool", BLUE, "--vni", "9"], "pool 10.8.0.0/16").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_network_has_the_vni_of_one_that_was_deleted() -> anyhow::Result<()> {
    inherits("heir-vni", &["--pool", "10.9.0.0/16", "--vni", "8"], "VNI 8").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_network_has_pool_and_vni_of_one_that_was_deleted() -> anyhow::Result<()> {
    inherits("heir-both", &["--pool", BLUE, "--vni", "8"], "pool 10.8.0.0/16").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_network_of_next_hops_has_the_pool_of_a_tunnels() -> anyhow::Result<()> {
    let green = ["--pool", BLUE, "--vni", "9", "--backend", "host-gw"];
    inherits("heir-gw", &green, "pool 10.8.0.0/16").await
}
