//! A network that an agent is not part of any more.

use anyhow::{Context, ensure};

use crate::{SOON, deployment};

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_the_agent_serves_no_more_is_told_and_left_alone() -> anyhow::Result<()> {
    let deployment = deployment("dropped").await?;
    deployment.create_network("blue", "10.8.0.0/16").await?;
    let mut node = deployment.add_node("a", 11, &["--network", "default,blue"]).await?;
    node.ready(SOON).await?;
    let begun = node.process.as_ref().context("the agent runs")?;
    ensure!(begun.log().line("does not serve")?.is_none(), "{}", begun.log().tail());
    node.stop().await?;
    node.set_flags(&["--network", "default"]);
    node.start()?;
    node.ready(SOON).await?;

    let agent = node.process.as_ref().context("the agent runs")?;
    let line = agent.wait_for_log("does not serve the network", SOON).await?;
    ensure!(
        ["WARN", "network=blue", "loden2a", "--network"].iter().all(|word| line.contains(word)),
        "{line}"
    );
    let file = node.cni_config_dir().join("20-loden-blue.conflist");
    ensure!(
        file.exists() && agent.log().line(file.to_str().context("a path")?)?.is_some(),
        "{}",
        agent.log().tail()
    );
    let (_, metrics) = node.get("/metrics").await?;
    ensure!(metrics.contains("loden_agent_devices_left_behind{network=\"blue\"} 1"), "{metrics}");
    node.host.link("loden2a").await?;
    Ok(())
}
