//! `lodenctl status`: the control plane, then what is not converged and why.

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::time::SystemTime;

use loden_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use crate::age;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::node::{self, NodeView};
use crate::output::{Output, grid, json, or_dash, print};

pub(crate) async fn run(connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut client = connection.cluster();
    let status = client.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner();
    let view = StatusView::new(status, &node::list(connection).await?);
    match output {
        Output::Table => print(&view.text(SystemTime::now()))?,
        Output::Json => print(&json(&view)?)?,
    }
    Ok(())
}

/// The cluster as shown.
#[derive(Debug, Serialize)]
struct StatusView {
    cluster: String,
    version: String,
    start_time: Option<String>,
    incarnation: String,
    revision: u64,
    store_failure: Option<String>,
    adopting_until: Option<String>,
    former_life: Option<FormerLifeView>,
    networks: u32,
    leases: u32,
    watches: u32,
    nodes: usize,
    refused_nodes: u32,
    waiting_nodes: u32,
    copied: Vec<CopiedView>,
    unconverged: Vec<UnconvergedView>,
    warnings: Vec<WarningView>,
    #[serde(skip)]
    started: Option<Timestamp>,
    #[serde(skip)]
    adopting: Option<Timestamp>,
}

/// Clients that know another CA of the cluster.
#[derive(Debug, Serialize)]
struct FormerLifeView {
    /// Where the last one came from.
    address: String,
    knock_time: Option<String>,
    hosts: u32,
    #[serde(skip)]
    knocked: Option<Timestamp>,
}

impl FormerLifeView {
    fn new(wire: v1::FormerLife) -> Self {
        Self {
            address: wire.address,
            knock_time: age::rfc3339(wire.knock_time.as_ref()),
            hosts: wire.hosts,
            knocked: wire.knock_time,
        }
    }

    fn text(&self, now: SystemTime) -> String {
        let who = match self.hosts {
            1 => "1 host knows".to_owned(),
            hosts => format!("{hosts} hosts know"),
        };
        format!(
            "{who} another CA of this cluster, last seen {} {}; new nodes get no subnet: if the state directory was \
             lost, run loden-control-plane recover, start the control plane again and issue every node anew; if \
             this is a new cluster, stop those agents",
            self.address,
            age::relative(self.knocked.as_ref(), now)
        )
    }
}

/// A node whose identity two agents have.
#[derive(Debug, Serialize)]
struct CopiedView {
    node: String,
    /// Where the one comes from that is served; none while it is away.
    connected: Option<String>,
    /// Where the one comes from that was refused.
    refused: String,
}

/// A node that is not converged in a network.
#[derive(Debug, Serialize)]
struct UnconvergedView {
    node: String,
    network: String,
    reasons: Vec<String>,
}

/// What the operator of a node should know, converged or not.
#[derive(Debug, Serialize)]
struct WarningView {
    node: String,
    network: String,
    warning: String,
}

impl StatusView {
    fn new(wire: v1::ClusterStatus, nodes: &[NodeView]) -> Self {
        let unconverged = nodes.iter().flat_map(|node| {
            let waiting = node.networks.iter().filter(|membership| !membership.converged);
            let waiting = waiting.map(|membership| UnconvergedView {
                node: node.name.clone(),
                network: membership.network.clone(),
                reasons: membership.reasons.clone(),
            });
            // Nobody has said that it is converged in them.
            let untold = (node.networks_left_out > 0).then(|| UnconvergedView {
                node: node.name.clone(),
                network: "-".to_owned(),
                reasons: vec![format!(
                    "{} more networks were left out of a long answer",
                    node.networks_left_out
                )],
            });
            waiting.chain(untold)
        });
        let warnings = nodes.iter().flat_map(|node| {
            let each = node.networks.iter();
            let each = each.flat_map(|of| of.warnings.iter().map(|warning| (of.network.clone(), warning)));
            each.map(|(network, warning)| WarningView {
                node: node.name.clone(),
                network,
                warning: warning.clone(),
            })
        });
        let copied = nodes.iter().filter_map(|node| {
            let refused = node.refused_agent.as_ref()?.address.clone();
            Some(CopiedView { node: node.name.clone(), connected: node.address.clone(), refused })
        });
        Self {
            cluster: wire.cluster,
            version: wire.version,
            start_time: age::rfc3339(wire.start_time.as_ref()),
            incarnation: wire.incarnation,
            revision: wire.revision,
            store_failure: Some(wire.store_failure).filter(|cause| !cause.is_empty()),
            adopting_until: age::rfc3339(wire.adopting_until.as_ref()),
            former_life: wire.former_life.map(FormerLifeView::new),
            networks: wire.networks,
            leases: wire.leases,
            watches: wire.watches,
            nodes: nodes.len(),
            refused_nodes: wire.refused_nodes,
            waiting_nodes: wire.waiting_nodes,
            copied: copied.collect(),
            unconverged: unconverged.collect(),
            warnings: warnings.collect(),
            started: wire.start_time,
            adopting: wire.adopting_until,
        }
    }

    fn text(&self, now: SystemTime) -> String {
        let store = match &self.store_failure {
            Some(cause) => format!("takes no writes: {cause}"),
            None => format!("takes writes, revision {}, incarnation {}", self.revision, self.incarnation),
        };
        let mut facts = vec![
            ("Cluster", self.cluster.clone()),
            (
                "Control plane",
                format!("{}, started {}", self.version, age::relative(self.started.as_ref(), now)),
            ),
            ("Store", store),
        ];
        if self.adopting.is_some() {
            facts.push((
                "Adopting",
                format!("leases held before, ends {}", age::relative(self.adopting.as_ref(), now)),
            ));
        }
        if let Some(former) = &self.former_life {
            facts.push(("Former life", former.text(now)));
        }
        facts.push(("Networks", self.networks.to_string()));
        facts.push(("Leases", self.leases.to_string()));
        facts.push(("Watches", self.watches.to_string()));
        facts.push(("Nodes", self.nodes.to_string()));
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for (name, fact) in facts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:width$} {fact}", format!("{name}:"));
        }
        if !self.copied.is_empty() {
            let row = |of: &CopiedView| {
                vec![of.node.clone(), or_dash(of.connected.clone().unwrap_or_default()), of.refused.clone()]
            };
            text.push_str("\nTwo agents with one identity (was a disk or certificate copied?):\n");
            text.push_str(&grid(&["NODE", "CONNECTED", "REFUSED"], self.copied.iter().map(row)));
            text.push('\n');
        }
        if !self.warnings.is_empty() {
            let row = |of: &WarningView| vec![of.node.clone(), of.network.clone(), of.warning.clone()];
            text.push_str("\nWarnings:\n");
            text.push_str(&grid(&["NODE", "NETWORK", "WARNING"], self.warnings.iter().map(row)));
            text.push('\n');
        }
        if self.unconverged.is_empty() {
            text.push_str("\nEvery node is converged.");
        } else {
            let row = |of: &UnconvergedView| vec![of.node.clone(), of.network.clone(), of.reasons.join("; ")];
            text.push_str("\nNot converged:\n");
            text.push_str(&grid(&["NODE", "NETWORK", "WHY"], self.unconverged.iter().map(row)));
        }
        text
    }
}
