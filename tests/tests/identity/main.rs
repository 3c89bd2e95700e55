//! From a token to a certificate that renews itself, and out again.

#![cfg(test)]

mod expired;
mod joining;
mod redial;
mod rotation;

use std::time::Duration;

use loden_tests::deployment::{Deployment, Node};

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A host whose agent has joined by itself, and is ready.
async fn joined(deployment: &Deployment, name: &str, number: u8) -> anyhow::Result<Node> {
    let mut node = deployment.prepare_host(name, number).await?;
    let token = deployment.token(&["--node", name]).await?;
    node.set_flags(&["--token", &token]);
    node.start()?;
    node.ready(SOON).await?;
    Ok(node)
}
