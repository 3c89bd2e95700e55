//! The control plane's state is lost, or is an old copy, while real agents run: nobody loses a peer or a
//! subnet, and nobody new gets a subnet that is in use.
//!
//! ```text
//!  agents, pings ─▶ state lost | copied back ─▶ newcomers ask at once ─▶ adoption ─▶ its end
//!                     routes, pings, subnets: as before ────────────────────▶ │ only now: who is gone goes
//! ```
//!
//! The pool is small and the newcomers are chosen so that an unwary server would give each of them a subnet
//! that somebody else has.

#![cfg(test)]

mod added_pool;
mod alloc;
mod calm;
mod copy;
mod fleet;
mod forgotten;
mod newcomer;
mod reserved;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_tests::client;
use loden_tests::hosts::cidr;
use loden_tests::wait;
use tonic::transport::Channel;

use crate::calm::Calm;
use crate::fleet::Fleet;
use crate::newcomer::{Asking, Newcomer, ask_from_now_on, granted};

const NETWORK: &str = "default";
/// Seven slots: the first of eight is never given out.
const POOL: &str = "10.244.0.0/26";
const SLOT: u32 = 29;
/// The first one, whenever it is allocated.
const VNI: u32 = 1;
const DEVICE: &str = "loden1a";
/// The nodes that outlive every loss.
const STAYING: [&str; 3] = ["a", "b", "c"];
/// Of the node that dies with the control plane.
const GONE_ADDRESS: &str = "192.0.2.14";
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than agents take to come back: at most 5 s of back-off, and 5 s more for a refusal.
const ADOPT: &str = "20s";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_costs_no_peer_and_no_subnet() -> anyhow::Result<()> {
    the_store_is_lost("lost", ADOPT, async |_: &Fleet| Ok(())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_costs_nothing_either_when_the_network_is_created_again_late() -> anyhow::Result<()> {
    the_store_is_lost("lost-late", "15s", async |fleet: &Fleet| {
        // The operator comes when the time for adoption is over.
        let admin = fleet.admin().await?;
        let until = status(&admin).await?.adopting_until.context("it does not adopt")?;
        let over = wait::until("the time for adoption to pass", PATIENCE, async || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            ensure!(now.as_secs() > until.seconds.cast_unsigned() + 2, "it is not over");
            anyhow::Ok(())
        });
        Ok(over.await?)
    })
    .await
}

/// With everything gone, the CA too, agents cannot come back before they have new certificates: until then
/// only the operator can tell the server that there are agents.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_directory_costs_nothing_either_when_the_operator_recovers() -> anyhow::Result<()> {
    let mut loss = Loss::prepare("all-lost", ADOPT).await?;
    let asking = loss.strike("").await?;
    let control = &loss.fleet.deployment.control;
    let mistaken = control.run(&["recover"]).await.expect_err("there is no such directory").to_string();
    ensure!(mistaken.contains("is not there: make it if it was lost"), "{mistaken}");
    ensure!(!control.state.exists(), "it was made");
    fs::create_dir(&control.state)?;
    let said = control.run(&["recover"]).await?;
    ensure!(said.contains(", which was empty: the next start collects"), "{said}");
    loss.fleet.deployment.control.start().await?;
    let early = loss.fleet.deployment.control.run(&["recover"]).await.expect_err("it runs").to_string();
    ensure!(early.contains("a control plane runs on it: stop it first"), "{early}");
    loss.fleet.issue_strangers_anew()?;
    loss.fleet.issue_nodes_anew().await?;
    loss.fleet.create_network().await?;
    loss.mend(asking).await
}

/// Loses the store, waits for `operator`, and has the network created again.
async fn the_store_is_lost(
    name: &str,
    adopt: &str,
    operator: impl AsyncFnOnce(&Fleet) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut loss = Loss::prepare(name, adopt).await?;
    let asking = loss.strike("store").await?;
    loss.fleet.deployment.control.start().await?;
    operator(&loss.fleet).await?;
    loss.fleet.create_network().await?;
    loss.mend(asking).await
}

/// Three agents whose control plane loses what it knows, a node that dies with it, and newcomers for the
/// subnets of the three.
struct Loss {
    fleet: Fleet,
    in_use: BTreeSet<IpNet>,
    newcomers: Vec<Newcomer>,
    calm: Calm,
}

impl Loss {
    async fn prepare(name: &str, adopt: &str) -> anyhow::Result<Self> {
        let fleet = Fleet::start(name, &["a", "b", "c", "gone"], adopt).await?;
        let in_use = fleet.subnets_of(&STAYING);
        let newcomers = fleet.newcomers_for(&in_use).await?;
        let calm = fleet.calm(&STAYING).await?;
        Ok(Self { fleet, in_use, newcomers, calm })
    }

    /// Kills the control plane and the node, removes a part of the state, or all of it, and puts the
    /// newcomers at the door.
    async fn strike(&mut self, part: &str) -> anyhow::Result<Vec<Asking>> {
        self.fleet.deployment.control.kill9().await?;
        self.fleet.nodes["gone"].process.as_ref().context("it does not run")?.kill9().await?;
        fs::remove_dir_all(self.fleet.deployment.control.state.join(part))?;
        Ok(ask_from_now_on(std::mem::take(&mut self.newcomers)))
    }

    /// The network was created again, and everybody can come back.
    async fn mend(self, asking: Vec<Asking>) -> anyhow::Result<()> {
        let Self { fleet, in_use, calm, .. } = self;
        let count = asking.len();
        fleet.adoption_ends(&calm).await?;

        fleet.everybody_is_back(&STAYING, &calm.subnets).await?;
        let given = granted(asking, &in_use).await?;
        ensure!(given.len() == count, "only {given:?} were given subnets");
        let mut expected = in_use.clone();
        expected.extend(given);
        fleet.only_these_are_left(&STAYING, &expected).await?;
        // Its subnet has an heir: who hears of both at once keeps the route, and changes where it leads to.
        fleet.nobody_sends_to(GONE_ADDRESS, &STAYING).await?;
        let gone = calm.subnets["gone"];
        for (name, deleted) in calm.deleted() {
            ensure!(
                deleted.iter().all(|subnet| *subnet == gone),
                "{name} has deleted the routes to {deleted:?}"
            );
        }
        calm.end().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_state_costs_no_peer_and_no_subnet() -> anyhow::Result<()> {
    let mut fleet = Fleet::start("copied", &["a", "b", "c"], ADOPT).await?;
    let copy = copy::keep(&mut fleet.deployment).await?;

    // Two more join, and one moves to another address.
    for (name, number) in [("d", 21), ("e", 22)] {
        fleet.join(name, number).await?;
    }
    let moved = fleet.nodes["c"].host.clone();
    moved.remove_address("eth0", cidr("192.0.2.13/24")).await?;
    moved.add_address("eth0", cidr("192.0.2.33/24")).await?;
    // It went with the address.
    moved.add_route(client::NOWHERE, fleet.deployment.control.address().ip()).await?;
    let all = ["a", "b", "c", "d", "e"];
    let subnets = fleet.subnets();
    fleet.everybody_is_back(&all, &subnets).await?;
    fleet.c_is_reached_at("192.0.2.33").await?;
    let newcomers = fleet.newcomers_for(&fleet.subnets_of(&["d", "e"])).await?;
    let calm = fleet.calm(&all).await?;

    copy::put_back(&mut fleet.deployment, &copy).await?;
    let asking = ask_from_now_on(newcomers);
    fleet.deployment.control.start().await?;
    fleet.adoption_ends(&calm).await?;

    fleet.everybody_is_back(&all, &subnets).await?;
    fleet.c_is_reached_at("192.0.2.33").await?;
    let given = granted(asking, &fleet.subnets_of(&all)).await?;
    ensure!(given.len() == 2, "the two subnets that are left went to {given:?}");
    let mut expected = fleet.subnets_of(&all);
    expected.extend(given);
    fleet.only_these_are_left(&all, &expected).await?;
    for (name, deleted) in calm.deleted() {
        ensure!(deleted.is_empty(), "{name} has deleted the routes to {deleted:?}");
    }
    calm.end().await
}

/// In a copy from before anybody joined nobody is awaited, and nothing in it tells that it is a copy. It is put
/// back once more while the agents bring their leases.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_knows_nobody_costs_nothing_either_also_when_it_is_put_back_twice() -> anyhow::Result<()>
{
    let mut fleet = Fleet::start("knows-none", &[], ADOPT).await?;
    let copy = copy::keep(&mut fleet.deployment).await?;
    for (name, number) in STAYING.into_iter().zip(11..) {
        fleet.join(name, number).await?;
    }
    let subnets = fleet.subnets();
    fleet.everybody_is_back(&STAYING, &subnets).await?;
    let in_use = fleet.subnets_of(&STAYING);
    let newcomers = fleet.newcomers_for(&in_use).await?;
    let count = newcomers.len();
    let calm = fleet.calm(&STAYING).await?;

    copy::put_back(&mut fleet.deployment, &copy).await?;
    let asking = ask_from_now_on(newcomers);
    fleet.deployment.control.start().await?;
    fleet.everybody_is_connected(&STAYING).await?;

    copy::put_back(&mut fleet.deployment, &copy).await?;
    fleet.deployment.control.start().await?;
    fleet.adoption_ends(&calm).await?;

    fleet.everybody_is_back(&STAYING, &subnets).await?;
    let given = granted(asking, &in_use).await?;
    ensure!(given.len() == count, "only {given:?} were given subnets");
    for (name, deleted) in calm.deleted() {
        ensure!(deleted.is_empty(), "{name} has deleted the routes to {deleted:?}");
    }
    calm.end().await
}

async fn status(admin: &Channel) -> anyhow::Result<v1::ClusterStatus> {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    Ok(cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner())
}
