//! `lodenctl status`: the control plane, then what is not converged and why.

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn status() -> v1::ClusterStatus {
        v1::ClusterStatus {
            cluster: "demo".into(),
            version: "0.1.0".into(),
            incarnation: "5eed".into(),
            revision: 42,
            watches: 2,
            networks: 1,
            leases: 3,
            unconverged_nodes: 1,
            start_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            ..Default::default()
        }
    }

    fn nodes() -> Vec<NodeView> {
        let membership = |converged| v1::NodeNetwork {
            network: "networks/blue".into(),
            subnets: vec!["10.1.3.0/24".into()],
            converged,
            ready: true,
            applied_revision: 41,
            current_revision: 42,
            report_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            ..Default::default()
        };
        let node = |name: &str, converged| v1::Node {
            name: format!("nodes/{name}"),
            connected: true,
            networks: vec![membership(converged)],
            ..Default::default()
        };
        vec![node("a", true).into(), node("b", false).into()]
    }

    #[test]
    fn what_is_not_converged_is_told_with_its_reason() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060);
        assert_eq!(
            StatusView::new(status(), &nodes()).text(now),
            "Cluster:       demo\n\
             Control plane: 0.1.0, started 1m ago\n\
             Store:         takes writes, revision 42, incarnation 5eed\n\
             Networks:      1\n\
             Leases:        3\n\
             Watches:       2\n\
             Nodes:         2\n\
             \n\
             Not converged:\n\
             NODE  NETWORK  WHY\n\
             b     blue     has applied revision 41 of 42"
        );
    }

    #[test]
    fn a_node_that_is_refused_a_lease_keeps_the_cluster_from_being_converged() {
        let refusal = v1::LeaseRefusal {
            code: "RESOURCE_EXHAUSTED".into(),
            reason: "EXHAUSTED".into(),
            message: "no subnet is left".into(),
            ..Default::default()
        };
        let membership =
            v1::NodeNetwork { network: "networks/blue".into(), refusal: Some(refusal), ..Default::default() };
        let node = v1::Node { name: "nodes/c".into(), networks: vec![membership], ..Default::default() };
        let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
        let told = "\nNot converged:\n\
                    NODE  NETWORK  WHY\n\
                    c     blue     is refused a lease: EXHAUSTED: no subnet is left (RESOURCE_EXHAUSTED)";
        assert!(text.ends_with(told), "{text}");
    }

    #[test]
    fn a_failed_store_and_adoption_are_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060);
        let wire = v1::ClusterStatus {
            store_failure: "no space left on device".into(),
            adopting_until: Some(Timestamp { seconds: 1_000_360, nanos: 0 }),
            ..status()
        };
        let text = StatusView::new(wire, &[]).text(now);
        assert!(text.contains("Store:         takes no writes: no space left on device\n"), "{text}");
        assert!(text.contains("Adopting:      leases held before, ends in 5m\n"), "{text}");
        assert!(text.ends_with("\nEvery node is converged."), "{text}");
    }

    #[test]
    fn networks_that_were_left_out_are_not_taken_for_converged() {
        let node = v1::Node { name: "nodes/a".into(), networks_left_out: 7, ..Default::default() };
        let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
        assert!(text.ends_with("a     -        7 more networks were left out of a long answer"), "{text}");
    }

    #[test]
    fn signs_of_a_former_life_are_told_with_what_to_do() {
        let knock_time = Some(Timestamp { seconds: 1_000_057, nanos: 0 });
        let former = v1::FormerLife { address: "192.0.2.7:4711".into(), knock_time, hosts: 2 };
        let wire = v1::ClusterStatus { former_life: Some(former), ..status() };
        let text = StatusView::new(wire, &[]).text(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_060));
        let told = "Former life:   2 hosts know another CA of this cluster, last seen 192.0.2.7:4711 3s ago; new nodes \
                    get no subnet: if the state directory was lost, run loden-control-plane recover, start";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn warnings_are_told_of_nodes_that_are_converged_too() {
        let membership = v1::NodeNetwork {
            network: "networks/blue".into(),
            converged: true,
            warnings: vec!["net.ipv4.ip_forward is 0".into()],
            ..Default::default()
        };
        let node = v1::Node { name: "nodes/a".into(), networks: vec![membership], ..Default::default() };
        let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
        let warned = "\nWarnings:\nNODE  NETWORK  WARNING\na     blue     net.ipv4.ip_forward is 0\n";
        assert!(text.ends_with(&format!("{warned}\nEvery node is converged.")), "{text}");
    }

    #[test]
    fn both_agents_of_a_copied_identity_are_told() {
        let node = v1::Node {
            name: "nodes/a".into(),
            connected: true,
            address: "192.0.2.1:40000".into(),
            refused_agent: Some(v1::RefusedAgent {
                address: "192.0.2.9:40001".into(),
                instance_id: "07".into(),
                refuse_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            }),
            ..Default::default()
        };
        let text = StatusView::new(status(), &[node.into()]).text(SystemTime::UNIX_EPOCH);
        assert!(
            text.ends_with(
                "\nTwo agents with one identity (was a disk or certificate copied?):\n\
                 NODE  CONNECTED        REFUSED\n\
                 a     192.0.2.1:40000  192.0.2.9:40001\n\
                 \nEvery node is converged."
            ),
            "{text}"
        );
    }

    #[test]
    fn json_names_are_stable() {
        assert_eq!(
            serde_json::to_value(StatusView::new(status(), &nodes())).unwrap(),
            json!({
                "cluster": "demo",
                "version": "0.1.0",
                "start_time": "1970-01-12T13:46:40Z",
                "incarnation": "5eed",
                "revision": 42,
                "store_failure": null,
                "adopting_until": null,
                "former_life": null,
                "networks": 1,
                "leases": 3,
                "watches": 2,
                "nodes": 2,
                "refused_nodes": 0,
                "waiting_nodes": 0,
                "copied": [],
                "unconverged": [
                    {"node": "b", "network": "blue", "reasons": ["has applied revision 41 of 42"]},
                ],
                "warnings": [],
            })
        );
    }
}
