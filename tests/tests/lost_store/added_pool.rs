//! A copy of the state from before the network got a pool of another family comes back: agents hold subnets that are
//! in no pool of it, until the operator adds the pool again, late.
//!
//! ```text
//!  copy ─▶ pool added, agents get subnets of it ─▶ copied back ─▶ adoption … pool added again ─▶ … its end
//!            pings in both families, routes, subnets: as before ──────────────────────────────────▶
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_proto::v1;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client;
use loden_tests::hosts::Tunnel;
use loden_tests::wait;

use crate::copy;
use crate::fleet::Fleet;
use crate::newcomer::{ask_from_now_on, granted};
use crate::{DEVICE, NETWORK, PATIENCE, STAYING, status};

/// As many subnets as the first pool has, so that who begins at another's subnet there does so here too.
const ADDED: &str = "fd00:244::/61:64";
const ADOPT: &str = "20s";
/// Before the end of adoption; less than agents take that were refused.
const LATE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_an_old_copy_does_not_know_and_is_added_again_late_costs_no_subnet() -> anyhow::Result<()>
{
    let mut fleet = Fleet::start("added-pool", &STAYING, ADOPT).await?;
    let copy = copy::keep(&mut fleet.deployment).await?;

    add_pool(&fleet).await?;
    for name in STAYING {
        let node = &fleet.nodes[name];
        let both = wait::until("a subnet of the added pool", PATIENCE, async || {
            node.subnet_env()?.subnet_v6.context("there is none")
        });
        both.await?;
        node.extend(fleet.containers.get_mut(name).context("no such container")?).await?;
    }
    let subnets = subnets(&fleet)?;
    everybody_has(&fleet, &subnets).await?;
    let newcomers = fleet.newcomers_for(&fleet.subnets_of(&STAYING)).await?;
    let count = newcomers.len();
    let calm = fleet.calm(&STAYING).await?;
    let tunnels = tunnels(&fleet).await?;

    copy::put_back(&mut fleet.deployment, &copy).await?;
    let asking = ask_from_now_on(newcomers);
    fleet.deployment.control.start().await?;
    late(&fleet).await?;
    add_pool(&fleet).await?;
    fleet.adoption_ends(&calm).await?;

    everybody_has(&fleet, &subnets).await?;
    let in_use: BTreeSet<IpNet> = subnets.into_values().flatten().collect();
    let given = granted(asking, &in_use).await?;
    ensure!(given.len() == 2 * count, "only {given:?} were given to {count} newcomers");
    for (name, deleted) in calm.deleted() {
        ensure!(deleted.is_empty(), "{name} has deleted the routes to {deleted:?}");
    }
    for (name, before) in &tunnels {
        let now = fleet.nodes[name].host.tunnel(DEVICE).await?;
        let all = before.routes.keys().all(|net| now.routes.contains_key(net))
            && before.neighbours.keys().all(|address| now.neighbours.contains_key(address))
            && before.fdb.keys().all(|mac| now.fdb.contains_key(mac));
        ensure!(all, "{name} had {before:?} and has {now:?}");
    }
    calm.end().await
}

async fn add_pool(fleet: &Fleet) -> anyhow::Result<()> {
    fleet.deployment.lodenctl(&["network", "update", NETWORK, "--add-pool", ADDED]).await?;
    Ok(())
}

/// What each agent gives its pods.
fn subnets(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, Vec<IpNet>>> {
    let of = |(name, node): (&String, &loden_tests::deployment::Node)| {
        let env = node.subnet_env()?;
        let both = [Some(env.subnet), env.subnet_v6].into_iter().flatten();
        Ok((name.clone(), both.map(|subnet| subnet.trunc()).collect()))
    };
    fleet.nodes.iter().map(of).collect()
}

async fn tunnels(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, Tunnel>> {
    let mut tunnels = BTreeMap::new();
    for (name, node) in &fleet.nodes {
        tunnels.insert(name.clone(), node.host.tunnel(DEVICE).await?);
    }
    Ok(tunnels)
}

/// Adoption is nearly over, and the agents have been refused what they claim; each of them forwards.
async fn late(fleet: &Fleet) -> anyhow::Result<()> {
    let admin = fleet.admin().await?;
    let nearly_over = wait::until("adoption to be nearly over", PATIENCE, async || {
        let until = status(&admin).await?.adopting_until.context("it does not adopt")?;
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until.seconds.cast_unsigned());
        let rest = until.duration_since(SystemTime::now()).unwrap_or_default();
        ensure!(rest < LATE, "there are {rest:?} left");
        anyhow::Ok(())
    });
    nearly_over.await?;
    for name in STAYING {
        let ready = fleet.nodes[name].ready(PATIENCE).await?;
        ensure!(ready.contains("control plane refuses: "), "{name} says {ready}");
    }
    let leases = client::leases(&admin).await?;
    ensure!(leases.iter().all(|lease| lease.subnets.len() == 1), "{leases:?}");
    Ok(())
}

/// These are connected and converged with these subnets, and give them to their pods.
async fn everybody_has(fleet: &Fleet, expected: &BTreeMap<String, Vec<IpNet>>) -> anyhow::Result<()> {
    let admin = fleet.admin().await?;
    for (name, own) in expected {
        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
        let what = format!("{name} to converge");
        let converged = wait::until(&what, PATIENCE, async || {
            let request = v1::GetNodeRequest { name: format!("nodes/{name}") };
            let node = NodeServiceClient::new(admin.clone()).get_node(request).await?.into_inner();
            let converged = node.networks.iter().all(|network| network.converged && network.subnets == own);
            ensure!(node.connected && converged && node.networks.len() == 1, "{node:?}");
            anyhow::Ok(())
        });
        converged.await?;
        fleet.nodes[name].ready(PATIENCE).await?;
    }
    let now = subnets(fleet)?;
    ensure!(now == *expected, "the subnets were {expected:?}, now they are {now:?}");
    Ok(())
}
