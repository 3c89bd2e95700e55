//! Real agents with a pod each, whose packets all arrive.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::Container;
use loden_tests::traffic::{Ping, RunningPing};

use crate::{POOL, SOON};

/// The underlay number of the first one's host.
const FIRST: u8 = 11;
const PACE: Duration = Duration::from_millis(5);
/// For the last reply, on a busy machine.
const LINGER: Duration = Duration::from_secs(5);

/// Ready agents of the network `default`, which it creates. To be dropped before the deployment.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) pods: Vec<Container>,
}

impl Fleet {
    pub(crate) async fn start(deployment: &Deployment, count: u8) -> anyhow::Result<Self> {
        deployment.create_network("default", POOL).await?;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for number in 0..count {
            nodes.push(deployment.add_node(&format!("agent{number}"), FIRST + number, &[]).await?);
        }
        for (number, node) in nodes.iter().enumerate() {
            node.ready(SOON).await?;
            pods.push(node.attach(&format!("pod{number}")).await?);
        }
        Ok(Self { nodes, pods })
    }

    /// Has every pod ping the next one every 5 ms; each is reached when this returns.
    pub(crate) async fn pings(&self) -> anyhow::Result<Vec<RunningPing>> {
        let mut pings = Vec::new();
        for (from, to) in self.pods.iter().zip(self.pods.iter().cycle().skip(1)) {
            let ping = Ping::to(to.address()).interval(PACE).linger(LINGER).start(from)?;
            ping.reach(SOON).await?;
            pings.push(ping);
        }
        Ok(pings)
    }

    /// Every pod reaches this one.
    pub(crate) async fn reaches(&self, pod: &Container) -> anyhow::Result<()> {
        for from in &self.pods {
            let ping = Ping::to(pod.address()).start(from)?;
            ping.reach(SOON).await.with_context(|| format!("{} is not reached", pod.address()))?;
            ping.stop().await?;
        }
        Ok(())
    }

    /// What the ledger has of each node of the fleet.
    pub(crate) async fn leases(&self, deployment: &Deployment) -> anyhow::Result<BTreeMap<String, String>> {
        let leases = deployment.lodenctl_json(&["lease", "list", "default"]).await?;
        let leases = leases.as_array().context("no list")?;
        let mut found = BTreeMap::new();
        for node in &self.nodes {
            let own = leases.iter().find(|lease| lease["node"] == node.name.as_str());
            let own = own.with_context(|| format!("{} has no lease", node.name))?;
            found.insert(node.name.clone(), format!("{} {}", own["subnets"], own["epoch"]));
        }
        Ok(found)
    }
}

/// Ends the pings: none of their requests was lost.
pub(crate) async fn nothing_was_lost(pings: Vec<RunningPing>) -> anyhow::Result<()> {
    for ping in pings {
        let report = ping.stop().await?;
        ensure!(report.lost() == 0, "{report}");
    }
    Ok(())
}
