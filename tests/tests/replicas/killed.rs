//! The replica that most agents are connected with is killed: they go on with the others, and nothing is lost.

use std::fs;
use std::time::Instant;

use anyhow::{Context, ensure};
use loden_tests::deployment::{Daemon, Replicated, Underlay};
use loden_tests::wait;

use crate::fleet::{Fleet, nothing_was_lost};
use crate::{SOON, everybody_is_served};

const AGENTS: u8 = 3;
/// The underlay number of the other balancer's host.
const NGINX: u8 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_a_replica_that_is_killed_costs_nothing() -> anyhow::Result<()> {
    let mut site = Replicated::start("killed", &[]).await?;
    a_kill_costs_nothing(&mut site).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_agents_that_know_all_replicas_one_that_is_killed_costs_nothing() -> anyhow::Result<()> {
    let mut site = Replicated::start("killed-all", &[]).await?;
    let all = site.endpoints();
    site.deployment.set_server(all);
    a_kill_costs_nothing(&mut site).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_a_replica_that_is_killed_costs_nothing() -> anyhow::Result<()> {
    let mut site = Replicated::start("killed-nginx", &[]).await?;
    let mut nginx = nginx(&site).await?;
    nginx.spawn()?;
    let address = std::net::SocketAddr::new(Underlay::V4.address(NGINX).addr(), 7443);
    let listens = wait::until("nginx to listen", SOON, async || nginx.host.connect(address).await.map(drop));
    listens.await?;
    site.deployment.set_server(format!("https://{address}"));
    a_kill_costs_nothing(&mut site).await
}

/// Whichever is asked: each is connected with some of them only.
async fn every_replica_knows_all_nodes(site: &Replicated) -> anyhow::Result<()> {
    for _ in site.replicas() {
        let asked = wait::until("all nodes to be connected", SOON, async || {
            let nodes = site.deployment.lodenctl_json(&["node", "list"]).await?;
            let connected = nodes.to_string().matches(r#""connected":true"#).count();
            ensure!(connected == usize::from(AGENTS), "{connected} nodes are: {nodes}");
            Ok(())
        });
        asked.await?;
    }
    Ok(())
}

async fn nginx(site: &Replicated) -> anyhow::Result<Daemon> {
    let lab = &site.deployment.lab;
    let address = Underlay::V4.address(NGINX);
    let host = lab.host("nginx").on(&site.deployment.fabric).address(address).build().await?;
    let home = lab.directory().join("nginx");
    fs::create_dir(&home)?;
    let configuration = home.join("nginx.conf");
    fs::write(&configuration, include_str!("nginx.conf"))?;
    let arguments =
        vec!["-e".into(), "stderr".into(), "-p".into(), home.into(), "-c".into(), configuration.into()];
    Ok(Daemon::new(host, "nginx", arguments))
}

async fn a_kill_costs_nothing(site: &mut Replicated) -> anyhow::Result<()> {
    let fleet = Fleet::start(&site.deployment, AGENTS).await?;
    let before = fleet.leases(&site.deployment).await?;
    let pings = fleet.pings().await?;
    let served = everybody_is_served(site, AGENTS.into()).await?;
    let (victim, _) = (0..).zip(served).max_by_key(|(_, agents)| *agents).context("there are replicas")?;

    let begin = Instant::now();
    site.replicas_mut()[victim].kill9().await?;
    everybody_is_served(site, AGENTS.into()).await?;
    every_replica_knows_all_nodes(site).await?;
    println!("of {served:?} agents those of replica {victim} are served again after {:?}", begin.elapsed());
    // What changes meanwhile gets to everybody.
    let late = site.deployment.add_node("late", 30, &[]).await?;
    late.ready(SOON).await?;
    fleet.reaches(&late.attach("pod-late").await?).await?;

    site.replicas_mut()[victim].start().await?;
    let after = fleet.leases(&site.deployment).await?;
    ensure!(after == before, "the leases were {before:?}, now they are {after:?}");
    nothing_was_lost(pings).await
}
