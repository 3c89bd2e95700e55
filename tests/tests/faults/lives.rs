//! Leases that go while their node lives, and agents that are told to end when they have hardly begun.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_tests::client;
use loden_tests::deployment::{Deployment, Pair, Underlay};
use loden_tests::scripted::{Scripted, vxlan_network};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
const VXLAN: &[&str] = &["--pool", "10.244.0.0/16"];
/// How long an agent may take to end on a busy machine.
const END: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_lease_was_taken_away_gets_its_subnet_again() -> anyhow::Result<()> {
    let pair = Pair::start(Underlay::V4, "f-lease", VXLAN).await?;
    let before = pair.a.subnet_env()?;
    let list = async || pair.deployment.lodenctl_json(&["lease", "list", "default"]).await;
    let epoch_of_a = |leases: &serde_json::Value| {
        let leases = leases.as_array().context("no list")?;
        let own = leases.iter().find(|lease| lease["node"] == "a");
        own.map(|lease| lease["epoch"].clone()).context("a has no lease")
    };
    let epoch = epoch_of_a(&list().await?)?;
    pair.deployment.lodenctl(&["lease", "release", "default", "a"]).await?;
    let again = wait::until("the node to have a lease again", SOON, async || {
        let now = epoch_of_a(&list().await?)?;
        ensure!(now != epoch, "it is the lease of before");
        Ok(())
    });
    again.await?;
    pair.a.ready(SOON).await?;
    ensure!(pair.a.subnet_env()? == before, "it has another subnet: {:?}", pair.a.subnet_env()?);
    pair.reaches().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_only_just_begun_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let deployment = Deployment::start("f-begun", &[]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let mut node = deployment.prepare_node("a", 11, &[]).await?;
    // Before anything of it is seen, and at each of the steps that its log tells of.
    for step in [None, Some("agent started"), Some("lease acquired"), Some("ready detail")] {
        node.start()?;
        let process = node.process.take().context("the agent runs")?;
        if let Some(step) = step {
            process.wait_for_log(step, SOON).await?;
        }
        let begin = Instant::now();
        process.terminate()?;
        let status = process.wait_exit(END).await.with_context(|| format!("at {step:?}"))?;
        println!("told to end at {step:?}: {status} after {:?}", begin.elapsed());
        // Before it is its own program the kernel ends it.
        ensure!(step.is_none() || status.success(), "at {step:?}: {status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_loading_four_thousand_peers_ends_when_it_is_told_to() -> anyhow::Result<()> {
    const PEERS: u32 = 4000;
    let deployment = Deployment::prepare("f-loading", &[]).await?;
    let network = vxlan_network(&["10.0.0.0/8"], 100);
    let mut server = Scripted::start(&deployment, network, &["10.255.1.0/24"]).await?;
    let mut node = deployment.add_node("a", 11, &[]).await?;
    let peers = (0..PEERS).map(|number| {
        let [.., high, low] = number.to_be_bytes();
        let endpoint = Some(client::vtep(u16::from_be_bytes([high, low]), 100));
        v1::Peer { node: format!("node-{number}"), subnets: vec![format!("10.{high}.{low}.0/24")], endpoint }
    });
    server.snapshot(peers.collect(), false).await?;
    let begin = Instant::now();
    node.stop().await?;
    println!("told to end while it loads {PEERS} peers: after {:?}", begin.elapsed());
    Ok(())
}
