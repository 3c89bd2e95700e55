//! Nodes that were away until their certificates had ended.

use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::Deployment;
use loden_tests::traffic::Ping;
use loden_tests::wait;

use super::{SOON, joined};

const LIFE: &str = "6s";

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_certificates_have_ended_forward_and_come_back_by_a_token() -> anyhow::Result<()> {
    let mut deployment = Deployment::start("expired", &["--certificate-validity", LIFE]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    for (name, number) in [("a", 11), ("b", 12)] {
        let node = joined(&deployment, name, number).await?;
        pods.push(node.attach(&format!("pod-{name}")).await?);
        nodes.push((node.subnet_env()?.subnet, node));
    }
    let target = pods[1].addresses().next().context("a pod without an address")?;
    let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&pods[0])?;
    ping.reach(SOON).await?;

    deployment.control.kill9().await?;
    for (_, node) in &nodes {
        let process = node.process.as_ref().context("the agent runs")?;
        process.wait_for_log("THE CERTIFICATE OF THIS NODE HAS ENDED", SOON).await?;
    }
    deployment.control.start().await?;
    for (subnet, node) in &nodes {
        let token = deployment.token(&["--node", &node.name]).await?;
        let joined = node.join(&token).await?;
        ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        wait::until(&format!("{} to be back", node.name), SOON, async || {
            let shown = deployment.lodenctl_json(&["node", "get", &node.name]).await?;
            ensure!(shown["connected"] == true && shown["networks"][0]["converged"] == true, "{shown:#}");
            anyhow::Ok(())
        })
        .await?;
        ensure!(node.subnet_env()?.subnet == *subnet, "{} has another subnet", node.name);
    }
    let report = ping.stop().await?;
    ensure!(report.lost() == 0, "{} of {} lost", report.lost(), report.sent());
    Ok(())
}
