//! What an agent tells on its socket: real agents, and a client of this host that shows no certificate.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_proto::v1::agent_service_client::AgentServiceClient;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::wait;
use tonic::transport::Endpoint;

const SOON: Duration = Duration::from_secs(30);

async fn deployment(name: &str) -> anyhow::Result<Deployment> {
    let deployment = Deployment::start(name, &[]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    Ok(deployment)
}

async fn ask(node: &Node) -> anyhow::Result<v1::AgentStatus> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", node.socket().display()))?;
    let mut client = AgentServiceClient::new(endpoint.connect().await?);
    Ok(client.get_agent_status(v1::GetAgentStatusRequest {}).await?.into_inner())
}

/// Waits until an agent tells that it is ready with so many peers from its control plane.
async fn tells(node: &Node, peers: u32) -> anyhow::Result<v1::AgentStatus> {
    let what = format!("{} to tell of {peers} peers", node.name);
    let told = wait::until(&what, SOON, async || {
        let status = ask(node).await?;
        let [network] = &status.networks[..] else { anyhow::bail!("{status:?}") };
        ensure!(network.peers == peers && network.source() == v1::PeerSource::Server, "{status:?}");
        ensure!(status.detail.starts_with(&format!("default: {peers} peers from server")), "{status:?}");
        ensure!(status.ready && network.ready, "{status:?}");
        anyhow::Ok(status)
    });
    Ok(told.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_how_it_is_until_it_ends() -> anyhow::Result<()> {
    let deployment = deployment("socket").await?;
    let mut a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    let mode = fs::symlink_metadata(a.socket())?.permissions().mode() & 0o7777;
    ensure!(mode == 0o660, "{mode:o}");

    let told = tells(&a, 1).await?;
    ensure!(told.node == "nodes/a" && told.spiffe_id == "spiffe://demo/node/a", "{told:?}");
    ensure!(!told.version.is_empty() && told.certificate_expire_time.is_some(), "{told:?}");
    let network = &told.networks[0];
    ensure!(network.network == "networks/default" && network.connected, "{told:?}");
    ensure!(network.standing == "control plane connected", "{told:?}");
    ensure!(network.failures.is_empty() && network.apply_time.is_some(), "{told:?}");
    let env = a.subnet_env()?;
    let subnets = [env.subnet.trunc().to_string()];
    ensure!(network.subnets == subnets && network.mtu == env.mtu, "{told:?}, but {env:?}");
    let backend = network.programmed.as_ref().and_then(|network| network.backend.as_ref());
    ensure!(matches!(backend, Some(v1::network::Backend::Vxlan(_))), "{told:?}");

    // The file of one that was killed is in nobody's way.
    a.kill9().await?;
    ensure!(a.socket().exists());
    a.start()?;
    a.ready(SOON).await?;
    tells(&a, 1).await?;
    a.stop().await?;
    ensure!(!a.socket().exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_socket_has_no_place_goes_on_and_says_so_once() -> anyhow::Result<()> {
    let deployment = deployment("no-socket").await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    fs::write(a.socket(), "mine")?;
    a.start()?;
    a.ready(SOON).await?;
    let log = a.process.as_ref().context("the agent runs")?.log().text()?;
    let said = log.lines().filter(|line| line.contains("agent.sock: it is no socket")).count();
    ensure!(said == 1, "{said} times in: {log}");
    a.stop().await?;
    ensure!(fs::read_to_string(a.socket())? == "mine");
    Ok(())
}
