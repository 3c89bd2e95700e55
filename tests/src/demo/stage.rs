//! The hosts of the demo, each with one container.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::backend::Backend;
use super::report::HostFacts;
use crate::deployment::{Deployment, Node};
use crate::hosts::Container;

/// The network of all stories, and its pool.
pub(super) const NETWORK: &str = "default";
pub(super) const POOL: &str = "10.244.0.0/16";

/// How long a node may take to be ready on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A node and the container on it.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) node: Node,
    pub(super) container: Container,
}

impl Actor {
    /// Starts a node, waits until it forwards, and attaches a container; answers also when the
    /// agent was started.
    pub(super) async fn enter(
        deployment: &Deployment,
        name: &str,
        number: u8,
    ) -> anyhow::Result<(Self, Instant)> {
        let started = Instant::now();
        let node = start(deployment, name, number).await?;
        let actor = Self::equip(node).await?;
        Ok((actor, started))
    }

    /// Starts several nodes at once.
    pub(super) async fn enter_all(
        deployment: &Deployment,
        names: &[(&str, u8)],
    ) -> anyhow::Result<Vec<Self>> {
        let mut nodes = Vec::with_capacity(names.len());
        for (name, number) in names {
            nodes.push(start(deployment, name, *number).await?);
        }
        let mut actors = Vec::with_capacity(nodes.len());
        for node in nodes {
            actors.push(Self::equip(node).await?);
        }
        Ok(actors)
    }

    async fn equip(node: Node) -> anyhow::Result<Self> {
        node.ready(PATIENCE).await?;
        let container = node.attach(&format!("pod-{}", node.name)).await?;
        Ok(Self { node, container })
    }

    pub(super) fn name(&self) -> &str {
        &self.node.name
    }
}

/// Starts a node as a service manager does that holds descriptors.
async fn start(deployment: &Deployment, name: &str, number: u8) -> anyhow::Result<Node> {
    let mut node = deployment.prepare_node(name, number, &[]).await?;
    node.hold()?;
    node.start()?;
    Ok(node)
}

/// Creates the network.
pub(super) async fn create_network(deployment: &Deployment, backend: Backend) -> anyhow::Result<()> {
    let create = ["network", "create", NETWORK, "--pool", POOL, "--backend", &backend.to_string()];
    deployment.lodenctl(&create).await.map(drop)
}

/// What the control plane lists of the network's leases.
pub(super) async fn leases(deployment: &Deployment, network: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let listed = deployment.lodenctl_json(&["lease", "list", network]).await?;
    listed.as_array().cloned().context("lodenctl lease list printed no array")
}

/// A host as its lease and its own files describe it.
pub(super) fn facts(
    actor: &Actor,
    leases: &[serde_json::Value],
    backend: Backend,
) -> anyhow::Result<HostFacts> {
    let name = actor.name();
    let lease =
        leases.iter().find(|lease| lease["node"] == name).with_context(|| format!("{name} has no lease"))?;
    let text = |value: &serde_json::Value, what: &str| {
        value.as_str().map(ToOwned::to_owned).with_context(|| format!("the lease of {name} has no {what}"))
    };
    Ok(HostFacts {
        name: name.to_owned(),
        subnet: text(&lease["subnets"][0], "subnet")?,
        underlay: text(&lease["endpoint"]["address_v4"], "underlay address")?,
        receives: backend.receives(lease)?,
        mtu: actor.node.subnet_env()?.mtu,
        container: actor.container.address().to_string(),
        joined_late: false,
        left: false,
    })
}
