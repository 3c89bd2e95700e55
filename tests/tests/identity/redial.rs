//! A renewal after which no connection can be made for a while: the one that is open ends with its certificate.

use anyhow::{Context, ensure};
use loden_tests::deployment::Deployment;
use loden_tests::wait;

use super::{SOON, joined};

/// Renewed after 8 s: three renewals take longer than the certificate lives that the open connection was made with.
const LIFE: &str = "16s";
const RENEWALS: &str = "loden_agent_certificate_renewals_total";
const FAILURES: &str = "loden_agent_certificate_renewal_failures_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_connect_after_a_renewal_does_so_once_it_can() -> anyhow::Result<()> {
    let deployment = Deployment::start("redial", &["--certificate-validity", LIFE]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let node = joined(&deployment, "a", 11).await?;

    // What is open stays open.
    deployment.control.host.nft(
        "add table inet cut\n\
         add chain inet cut input { type filter hook input priority 0; }\n\
         add rule inet cut input tcp dport 7443 tcp flags & (syn | ack) == syn drop\n",
    )?;
    let process = node.process.as_ref().context("the agent runs")?;
    process.wait_for_log("no connection with the new certificate yet", SOON).await?;
    deployment.control.host.nft("delete table inet cut")?;

    let before = node.metric(RENEWALS).await?;
    wait::until("three more renewals", 2 * SOON, async || {
        let renewals = node.metric(RENEWALS).await? - before;
        ensure!(renewals >= 3.0, "{renewals} so far");
        anyhow::Ok(())
    })
    .await?;
    let failures = node.metric(FAILURES).await?;
    ensure!(failures == 0.0, "{failures} renewals failed");
    Ok(())
}
