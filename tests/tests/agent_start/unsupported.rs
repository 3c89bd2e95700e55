//! A network whose backend the agent cannot run.

use anyhow::ensure;
use hyper::StatusCode;
use loden_tests::{deployment::Deployment, wait};

use crate::{POOL, SOON, WRITES};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_that_it_cannot_run_a_backend_and_touches_nothing() -> anyhow::Result<()> {
    let deployment = Deployment::start("unsupp", &[]).await?;
    deployment.lodenctl(&["network", "create", "default", "--pool", POOL, "--backend", "udp"]).await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    let before = a.host.inventory().await?;
    a.start()?;
    let said = wait::until("the agent to say what it cannot run", SOON, async || {
        let (status, body) = a.get("/readyz").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("UNSUPPORTED_BACKEND"), "{body}");
        Ok::<_, anyhow::Error>(body)
    });
    let said = said.await?;
    ensure!(said.contains("the backend of the network is udp, which this agent (version"), "{said}");
    let told = wait::until("status to say it too", SOON, async || {
        let status = deployment.lodenctl(&["status"]).await?;
        ensure!(status.contains("UNSUPPORTED_BACKEND"), "{status}");
        Ok::<_, anyhow::Error>(status)
    });
    told.await?;
    ensure!(a.host.inventory().await? == before && !a.subnet_file().exists());
    ensure!(a.metric(WRITES).await? == 0.0, "it wrote to the kernel");
    Ok(())
}
