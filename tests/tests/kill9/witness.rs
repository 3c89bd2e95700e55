//! What the outside world was told, held against what the server says after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use loden_proto::v1;
use loden_tests::client;
use tonic::transport::Channel;

use crate::{NETWORKS, PASSING};

/// What is known of one lease or network from outside.
#[derive(Clone, Debug)]
pub(crate) struct Item<T, O> {
    /// As of the last acknowledgement or look; `None`: it does not exist.
    pub(crate) known: Option<T>,
    /// A call that nobody has answered.
    pub(crate) open: Option<O>,
    /// A lease: how often its network had been deleted before `known` was asked for. A network: whether its
    /// own deletion has begun.
    pub(crate) deletions: u64,
}

impl<T, O> Item<T, O> {
    pub(crate) fn sure(known: T) -> Self {
        Self { known: Some(known), ..Self::default() }
    }
}

impl<T, O> Default for Item<T, O> {
    fn default() -> Self {
        Self { known: None, open: None, deletions: 0 }
    }
}

/// What can be done to a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LeaseCall {
    Acquire { instance: u128 },
    Release,
}

/// What can be done to a network.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NetworkCall {
    Create,
    Delete,
}

/// How often a network's deletion has been asked for, and how often it was done before anything that begins
/// now.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    asked: AtomicU64,
    done: AtomicU64,
}

impl Deletions {
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Nothing that was asked for is still to be done.
    pub(crate) fn settle(&self) {
        self.done.store(self.asked(), Ordering::SeqCst);
    }
}

pub(crate) type LeaseItem = Item<v1::Lease, LeaseCall>;
pub(crate) type NetworkItem = Item<v1::Network, NetworkCall>;

/// What the outside world was told.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) networks: BTreeMap<String, NetworkItem>,
    /// By network and node.
    pub(crate) leases: BTreeMap<(String, String), LeaseItem>,
    /// Of each passing network.
    pub(crate) deletions: BTreeMap<String, Arc<Deletions>>,
}

impl Witness {
    /// Compares what the server holds with what it has acknowledged; from then on it is known to hold that.
    pub(crate) async fn compare(&mut self, admin: &Channel) -> anyhow::Result<()> {
        let (networks, leases) = (client::networks(admin).await?, client::leases(admin).await?);
        nothing_twice(&networks, &leases)?;
        let mut leases: BTreeMap<_, _> = leases
            .into_iter()
            .map(|lease| {
                let (network, node) = client::parts(&lease.name)?;
                Ok(((network.to_owned(), node.to_owned()), lease))
            })
            .collect::<anyhow::Result<_>>()?;
        for (name, item) in &mut self.leases {
            let found = leases.remove(name);
            let deletions = self.deletions.get(&name.0).map_or(0, |deletions| deletions.asked());
            if deletions > item.deletions && item.known.as_ref() != found.as_ref() {
                // A lease goes with its network, and may come again with it.
                item.known = None;
            }
            if found.is_some() || item.known.is_some() {
                check_lease(item, found.as_ref()).with_context(|| format!("{name:?}"))?;
            }
            *item = Item { known: found, open: None, deletions };
        }
        ensure!(leases.is_empty(), "nobody has asked for {leases:?}");
        let mut networks: BTreeMap<_, _> = networks
            .into_iter()
            .map(|network| (network.name.trim_start_matches("networks/").to_owned(), network))
            .collect();
        for (name, item) in &mut self.networks {
            let found = networks.remove(name);
            check_network(item, found.as_ref()).with_context(|| name.clone())?;
            // A deletion that has begun is ended by the server itself.
            let going = found.is_some() && matches!(item.open, Some(NetworkCall::Delete));
            if let Some(deletions) = self.deletions.get(name) {
                deletions.settle();
                if going {
                    deletions.ask();
                }
            }
            *item = Item { known: found, open: None, deletions: u64::from(going) };
        }
        ensure!(networks.is_empty(), "nobody has asked for {networks:?}");
        Ok(())
    }
}

fn check_lease(item: &LeaseItem, found: Option<&v1::Lease>) -> anyhow::Result<()> {
    if item.known.as_ref() == found {
        return Ok(());
    }
    let follows = match (item.open, found) {
        (Some(LeaseCall::Release), None) => true,
        (Some(LeaseCall::Acquire { instance }), Some(found)) => {
            let keeps = item.known.as_ref().is_none_or(|known| {
                known.subnets == found.subnets
                    && known.create_time == found.create_time
                    && known.epoch < found.epoch
            });
            keeps && found.instance_id == format!("{instance:032x}")
        }
        _ => false,
    };
    ensure!(follows, "it was {:?}, open was {:?}, now it is {found:?}", item.known, item.open);
    Ok(())
}

fn check_network(item: &NetworkItem, found: Option<&v1::Network>) -> anyhow::Result<()> {
    let follows = match (item.open, found) {
        // A deletion marks the network first, which changes its revision.
        (Some(NetworkCall::Delete), Some(found)) => item.known.as_ref().is_some_and(|known| {
            (&known.name, known.vni, &known.pools) == (&found.name, found.vni, &found.pools)
        }),
        (Some(NetworkCall::Delete), None) | (Some(NetworkCall::Create), Some(_)) => true,
        _ => item.known.as_ref() == found,
    };
    ensure!(follows, "it was {:?}, open was {:?}, now it is {found:?}", item.known, item.open);
    Ok(())
}

/// No subnet, no VNI and no address space belongs to two.
fn nothing_twice(networks: &[v1::Network], leases: &[v1::Lease]) -> anyhow::Result<()> {
    let mut vnis = BTreeMap::new();
    let mut pools: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    for network in networks {
        let vni = network.vni.with_context(|| format!("{} has no VNI", network.name))?;
        ensure!((1..=u32::from(NETWORKS + PASSING)).contains(&vni), "{} has VNI {vni}", network.name);
        if let Some(other) = vnis.insert(vni, &network.name) {
            bail!("{other} and {} both have VNI {vni}", network.name);
        }
        let cidrs = network.pools.iter().map(|pool| pool.cidr.parse()).collect::<Result<_, _>>()?;
        pools.insert(network.name.trim_start_matches("networks/"), cidrs);
    }
    let mut subnets: BTreeMap<IpNet, &str> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for lease in leases {
        let (network, _) = client::parts(&lease.name)?;
        ensure!(names.insert(&lease.name), "{} is listed twice", lease.name);
        ensure!(lease.subnets.len() == 1, "{} has {:?}", lease.name, lease.subnets);
        let subnet: IpNet = lease.subnets[0].parse()?;
        let pools = pools.get(network).with_context(|| format!("{} is in no network", lease.name))?;
        ensure!(pools.iter().any(|pool| pool.contains(&subnet)), "{} has {subnet}", lease.name);
        let before = subnets.range(..=subnet).next_back().filter(|(other, _)| other.contains(&subnet));
        let after = subnets.range(subnet..).next().filter(|(other, _)| subnet.contains(*other));
        if let Some((other, owner)) = before.or(after) {
            bail!("{owner} has {other} and {} has {subnet}", lease.name);
        }
        subnets.insert(subnet, &lease.name);
    }
    Ok(())
}
