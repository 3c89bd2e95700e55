//! Workers that acquire without a pause, and what they were told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::ControlPlane;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::{NETWORK, PATIENCE};

const WORKERS: usize = 16;
/// Of each worker.
const NODES: usize = 3;

/// A node with its connection, which it keeps over all rounds.
struct Node {
    name: String,
    number: u16,
    channel: Channel,
    /// What it was told last.
    told: Option<v1::Lease>,
    /// The instances that it has been since, without an answer.
    asked: Vec<String>,
}

/// All nodes while they rest.
#[derive(Default)]
pub(crate) struct Load {
    nodes: Vec<Node>,
    instance: u128,
}

/// All nodes while they work: until the control plane does not answer any more.
pub(crate) struct Working {
    acknowledged: watch::Receiver<usize>,
    workers: Vec<JoinHandle<Vec<Node>>>,
}

impl Load {
    pub(crate) async fn connect(control: &ControlPlane, issuer: &Identities) -> anyhow::Result<Self> {
        let mut load = Self::default();
        for number in 0..WORKERS * NODES {
            let name = format!("n{number}");
            let channel = control.channel(&issuer.node(&name)?).await?;
            let number = number as u16;
            load.nodes.push(Node { name, number, channel, told: None, asked: Vec::new() });
        }
        Ok(load)
    }

    pub(crate) fn begin(&mut self) -> Working {
        let (count, acknowledged) = watch::channel(0);
        let mut workers = Vec::new();
        while !self.nodes.is_empty() {
            let nodes = self.nodes.split_off(self.nodes.len() - NODES);
            self.instance += 1 << 32;
            workers.push(tokio::spawn(work(nodes, self.instance, count.clone())));
        }
        Working { acknowledged, workers }
    }

    /// Compares what everybody was told with the leases that there are, which is from then on what they know.
    pub(crate) fn compare(&mut self, leases: &[v1::Lease]) -> anyhow::Result<()> {
        let mut subnets = BTreeSet::new();
        for subnet in leases.iter().flat_map(|lease| &lease.subnets) {
            ensure!(subnets.insert(subnet), "{subnet} has two holders");
        }
        let mut held = BTreeMap::new();
        for lease in leases {
            held.insert(client::parts(&lease.name)?.1, lease);
        }
        for node in &mut self.nodes {
            let found = held.remove(node.name.as_str());
            let asked = found.is_some_and(|found| node.asked.contains(&found.instance_id));
            if let Some(told) = &node.told {
                let found = found.with_context(|| format!("{told:?} is lost"))?;
                ensure!(found.subnets == told.subnets, "it was {told:?}, it is {found:?}");
            }
            ensure!(asked || node.told.as_ref() == found, "it was {:?}, it is {found:?}", node.told);
            node.told = found.cloned();
            node.asked.clear();
        }
        ensure!(held.is_empty(), "nobody asked for {held:?}");
        Ok(())
    }
}

impl Working {
    /// Waits for so many acknowledgements.
    pub(crate) async fn acknowledged(&self, count: usize) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.clone();
        let enough = acknowledged.wait_for(|so_far| *so_far >= count);
        tokio::time::timeout(PATIENCE, enough).await.context("the work does not go on")??;
        Ok(())
    }

    /// Waits until everybody rests; says how many acknowledgements there were.
    pub(crate) async fn end(self, load: &mut Load) -> anyhow::Result<usize> {
        for worker in self.workers {
            load.nodes.extend(worker.await?);
        }
        load.nodes.sort_by_key(|node| node.number);
        let count = *self.acknowledged.borrow();
        Ok(count)
    }
}

/// Acquires as another instance at another address each time: so each is a commit.
async fn work(mut nodes: Vec<Node>, mut instance: u128, count: watch::Sender<usize>) -> Vec<Node> {
    loop {
        for node in &mut nodes {
            instance += 1;
            node.asked.push(format!("{instance:032x}"));
            let endpoint = client::endpoint(node.number * 2 + (instance % 2) as u16);
            let Ok(lease) = client::acquire(&node.channel, NETWORK, instance, endpoint).await else {
                return nodes;
            };
            node.told = Some(lease);
            node.asked.clear();
            count.send_modify(|count| *count += 1);
        }
    }
}
