//! An old copy of the state comes back in a network whose agents program nothing: they follow it all the same,
//! and their tokens prove what has happened.

use anyhow::ensure;
use ipnet::IpNet;
use loden_proto::v1;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::wait;
use tonic::transport::Channel;

use crate::copy;
use crate::newcomer::{Newcomer, ask_from_now_on, granted};
use crate::{ADOPT, NETWORK, PATIENCE};

/// Three slots, the first of four is never given out: whoever comes as the fourth finds nothing, or what is
/// somebody else's.
const POOL: &str = "10.244.0.0/27:29";

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_costs_no_subnet_where_nothing_is_programmed() -> anyhow::Result<()> {
    let flags = ["--adopt-for", ADOPT, "--heartbeat", "1s", "--cooldown", "1s"];
    let mut deployment = Deployment::start("copied-alloc", &flags).await?;
    let directory = deployment.lab.directory().to_owned();
    let identities = Identities::of(&deployment.control, &directory.join("identities"))?;
    let admin = deployment.control.channel(&identities.admin("operator")?).await?;
    deployment.lodenctl(&["network", "create", NETWORK, "--pool", POOL, "--backend", "alloc"]).await?;
    let mut nodes = vec![join(&deployment, "a", 11).await?];
    follows(&admin, &nodes[0]).await?;

    let copy = copy::keep(&mut deployment).await?;
    for (name, number) in [("b", 12), ("c", 13)] {
        nodes.push(join(&deployment, name, number).await?);
    }
    for node in &nodes {
        follows(&admin, node).await?;
    }
    let channel = deployment.control.channel(&identities.node("d")?).await?;
    let subnets = nodes.iter().map(subnet).collect::<anyhow::Result<_>>()?;

    copy::put_back(&mut deployment, &copy).await?;
    let asking = ask_from_now_on(vec![Newcomer { number: 14, channel, endpoint: client::endpoint(14) }]);
    deployment.control.start().await?;

    let given = granted(asking, &subnets).await?;
    ensure!(given.is_empty(), "all subnets are in use, and {given:?} was given out");
    for node in &nodes {
        follows(&admin, node).await?;
        ensure!(subnets.contains(&subnet(node)?), "{} has moved to {}", node.name, subnet(node)?);
    }
    Ok(())
}

async fn join(deployment: &Deployment, name: &str, number: u8) -> anyhow::Result<Node> {
    let node = deployment.add_node(name, number, &[]).await?;
    node.ready(PATIENCE).await?;
    Ok(node)
}

fn subnet(node: &Node) -> anyhow::Result<IpNet> {
    Ok(node.subnet_env()?.subnet.trunc())
}

/// The server has it connected, converged and with the subnet that its pods are given.
async fn follows(admin: &Channel, node: &Node) -> anyhow::Result<()> {
    let own = subnet(node)?.to_string();
    let what = format!("{} to converge", node.name);
    let converged = wait::until(&what, PATIENCE, async || {
        let request = v1::GetNodeRequest { name: format!("nodes/{}", node.name) };
        let seen = NodeServiceClient::new(admin.clone()).get_node(request).await?.into_inner();
        let converged =
            seen.networks.iter().all(|network| network.converged && network.subnets == [own.clone()]);
        ensure!(seen.connected && converged && seen.networks.len() == 1, "{seen:?}");
        anyhow::Ok(())
    });
    Ok(converged.await?)
}
