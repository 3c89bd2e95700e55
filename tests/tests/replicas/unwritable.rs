//! etcd loses its majority: nobody can write, so nobody is sent anywhere, and whoever comes is told what is known.

use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::Replicated;
use loden_tests::wait;

use crate::fleet::{Fleet, nothing_was_lost};
use crate::{SOON, everybody_is_served, streaming};

const AGENTS: u8 = 3;
/// Until a replica has noticed, has waited, and has asked the others.
const ASKED: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_can_write_agents_stay_and_others_are_let_in() -> anyhow::Result<()> {
    let mut site = Replicated::start("unwritable", &[]).await?;
    let fleet = Fleet::start(&site.deployment, AGENTS).await?;
    let before = fleet.leases(&site.deployment).await?;
    let pings = fleet.pings().await?;
    let served = everybody_is_served(&site, AGENTS.into()).await?;

    for member in [0, 1] {
        site.etcd.member(member)?.kill9().await?;
    }
    for replica in site.replicas() {
        let process = replica.process.as_ref().context("it runs")?;
        process.wait_for_log("no other replica serves: clients stay", ASKED).await?;
    }
    let still = streaming(&site).await?.map(Option::unwrap_or_default);
    ensure!(still == served, "of {served:?} agents {still:?} are where they were");
    // None is ready, and the balancer lets clients in all the same.
    let told = wait::until("lodenctl to be told", SOON, async || fleet.leases(&site.deployment).await);
    let told = told.await?;
    ensure!(told == before, "the leases were {before:?}, now they are said to be {told:?}");

    for member in [0, 1] {
        site.etcd.member(member)?.spawn()?;
    }
    site.ready(SOON).await?;
    everybody_is_served(&site, AGENTS.into()).await?;
    let late = site.deployment.add_node("late", 30, &[]).await?;
    late.ready(SOON).await?;
    fleet.reaches(&late.attach("pod-late").await?).await?;
    nothing_was_lost(pings).await
}
