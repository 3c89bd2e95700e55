//! Daemons whose log nobody can take: they do what they did, and end as they would.
//!
//! ```text
//!  loden-agent 2▶ a pipe that nobody reads, a disk that is full
//! ```

#![cfg(test)]

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use hyper::StatusCode;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
/// Every write is an EPIPE: the FIFO's only reader closes it again.
const CLOSED_PIPE: &str = r#"mkfifo "$0"; exec 3<>"$0" 4>"$0" 3>&-; exec "$@" 2>&4 4>&-"#;
/// Every write is an ENOSPC.
const FULL: &str = r#"exec "$@" 2>/dev/full"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_without_anybody_to_take_its_log() -> anyhow::Result<()> {
    let mut deployment = Deployment::prepare("deaf", &[]).await?;
    deployment.control.log = Some("/dev/full".into());
    deployment.control.start().await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    for (number, (name, errors)) in (11..).zip([("pipe", CLOSED_PIPE), ("full", FULL)]) {
        let mut node = deployment.prepare_node(name, number, &["--log", "debug"]).await?;
        let fifo = node.home.join("fifo");
        let mut shell = Command::new("sh");
        shell.args(["-c", errors]).arg(fifo);
        node.start_under(shell)?;
        node.ready(SOON).await?;
        // A repair is a line of the log.
        node.host.iproute("ip link delete loden1a").await?;
        wait::until("the tunnel to come back", SOON, async || {
            node.host.iproute("ip link show loden1a").await
        })
        .await?;
        ends_as_asked(&mut node).await?;
    }
    let (status, body) = deployment.control.get("/readyz").await?;
    ensure!(status == StatusCode::OK, "{status}: {body}");
    Ok(())
}

async fn ends_as_asked(node: &mut Node) -> anyhow::Result<()> {
    let process = node.process.take().expect("it was started");
    process.terminate()?;
    let status = process.wait_exit(SOON).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}
