//! The whole state directory is lost, the CA too, and the operator forgets to say so: only the handshakes of the
//! old agents tell of them, and they are enough.

use std::fs;

use anyhow::{Context, anyhow, ensure};
use loden_proto::reason::Reason;
use loden_tests::client;
use loden_tests::wait;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::fleet::Fleet;
use crate::{Loss, NETWORK, PATIENCE, STAYING};

/// Long enough for issuing all nodes anew on a busy machine: adoption begins with the first of them.
const ADOPT: &str = "40s";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_directory_costs_nothing_either_when_the_operator_forgets_to_recover()
-> anyhow::Result<()> {
    let mut loss = Loss::prepare("forgotten", ADOPT).await?;
    let asking = loss.strike("").await?;
    let fleet = &mut loss.fleet;
    fleet.deployment.control.start().await?;
    // The agents, and the newcomers, who have the control plane's own address.
    let seen = "4 hosts know another CA of this cluster";
    let told = wait::until("/readyz to tell of the old agents", PATIENCE, async || {
        let (_, ready) = fleet.deployment.control.get("/readyz").await?;
        ensure!(ready.contains(seen) && ready.contains("run loden-control-plane recover"), "it says {ready}");
        anyhow::Ok(())
    });
    told.await?;
    let status = fleet.deployment.lodenctl(&["status"]).await?;
    ensure!(status.contains(&format!("Former life:   {seen}")), "{status}");
    let process = fleet.deployment.control.process.as_ref().context("it does not run")?;
    process.wait_for_log("new nodes get no subnet: if the state directory was lost", PATIENCE).await?;

    // New nodes first: the worst order.
    fleet.issue_strangers_anew()?;
    fleet.create_network().await?;
    nobody_new_is_served(fleet).await?;
    fleet.issue_nodes_anew().await?;
    loss.mend(asking).await
}

/// A script has issued a new node before any agent could dial again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_before_the_agents_have_dialled_again_waits_for_them() -> anyhow::Result<()> {
    let mut fleet = Fleet::start("forgotten-early", &STAYING, ADOPT).await?;
    let subnets = fleet.subnets();
    fleet.signal_agents(Signal::SIGSTOP)?;
    fleet.deployment.control.kill9().await?;
    fs::remove_dir_all(&fleet.deployment.control.state)?;
    fleet.deployment.control.start().await?;
    fleet.issue_strangers_anew()?;
    fleet.create_network().await?;
    let early = fleet.stranger("early").await?;
    let asked = client::acquire(&early, NETWORK, 100, client::endpoint(100)).await;
    ensure!(matches!(&asked, Err(status) if Reason::Settling.is_of(status)), "{asked:?}");
    fleet.signal_agents(Signal::SIGCONT)?;
    nobody_new_is_served(&fleet).await?;
    fleet.issue_nodes_anew().await?;
    fleet.everybody_is_back(&STAYING, &subnets).await
}

/// A node that comes now is never given a subnet, and soon told which agent the server has seen, and what to do.
async fn nobody_new_is_served(fleet: &Fleet) -> anyhow::Result<()> {
    let stranger = fleet.stranger("stranger").await?;
    let agents = ["192.0.2.11:", "192.0.2.12:", "192.0.2.13:"];
    let told = wait::until("a new node to be told of an agent", PATIENCE, async || {
        let asked = client::acquire(&stranger, NETWORK, 200, client::endpoint(200)).await;
        let Err(status) = asked else { return Ok(Err(anyhow!("a new node was given a subnet"))) };
        ensure!(!Reason::Settling.is_of(&status), "{status:?}");
        let held = status.code() == Code::Unavailable && Reason::FormerLife.is_of(&status);
        if !held || !status.message().contains("run loden-control-plane recover") {
            return Ok(Err(anyhow!(status)));
        }
        ensure!(agents.iter().any(|address| status.message().contains(address)), "{status:?}");
        Ok(Ok(()))
    });
    told.await??;
    let leases = client::leases(&fleet.admin().await?).await?;
    ensure!(leases.is_empty(), "{leases:?}");
    Ok(())
}
