//! `lodenctl node …`, and why a node is not converged.

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use clap::Subcommand;
use loden_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use crate::age;
use crate::connection::{Connection, PAGE, all_pages};
use crate::failure::Failure;
use crate::network;
use crate::output::{Output, View, or_dash};

/// The code of a refusal that passes by itself.
const WAIT: &str = "UNAVAILABLE";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lists the nodes that hold a lease, are connected, or are refused a lease
    List,
    /// Shows one node
    Get {
        /// Its name
        node: String,
    },
    /// Shuts a node out: its certificates and connections, and its peers forget it
    ///
    /// Its subnets are held for it. It comes back by a token that is for it alone (token create --node), or by a
    /// certificate that is issued with the epoch that is told.
    Revoke {
        /// Its name
        node: String,
        /// Also when nobody of this name was ever seen
        #[arg(long)]
        allow_missing: bool,
    },
    /// Forgets a node that is gone, and gives its subnets back
    Delete {
        /// Its name
        node: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        match self {
            Self::List => output.list(&list(connection).await?)?,
            Self::Get { node } => {
                let request = v1::GetNodeRequest { name: format!("nodes/{node}") };
                let node = connection.nodes().get_node(request).await?.into_inner();
                output.one(&NodeView::from(node))?;
            }
            Self::Revoke { node, allow_missing } => {
                let request = v1::RevokeNodeRequest { name: format!("nodes/{node}"), allow_missing };
                let v1::RevokeNodeResponse { epoch, leases } =
                    connection.nodes().revoke_node(request).await?.into_inner();
                output.one(&RevokedView { node, epoch, leases })?;
            }
            Self::Delete { node } => {
                let name = format!("nodes/{node}");
                connection.nodes().delete_node(v1::DeleteNodeRequest { name: name.clone() }).await?;
                output.done("deleted", &name)?;
            }
        }
        Ok(())
    }
}

/// All nodes, by name.
pub(crate) async fn list(connection: &Connection) -> Result<Vec<NodeView>, Failure> {
    let mut client = connection.nodes();
    let nodes = all_pages(async |page_token| {
        let request = v1::ListNodesRequest { page_size: PAGE, page_token };
        let page = client.list_nodes(request).await?.into_inner();
        Ok((page.nodes, page.next_page_token))
    });
    Ok(nodes.await?.into_iter().map(NodeView::from).collect())
}

/// What became of a node that was shut out.
#[derive(Debug, Serialize)]
struct RevokedView {
    node: String,
    /// What its certificates have to have at least from now on.
    epoch: u32,
    /// Leases that its peers have forgotten.
    leases: u32,
}

impl View for RevokedView {
    const COLUMNS: &'static [&'static str] = &["REVOKED", "EPOCH", "LEASES"];

    fn rows(&self, _: SystemTime) -> Vec<Vec<String>> {
        vec![vec![self.node.clone(), self.epoch.to_string(), self.leases.to_string()]]
    }
}

/// A node as shown.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) connected: bool,
    since: Option<String>,
    disconnect_reason: Option<String>,
    /// When it was shut out, if it is.
    revoke_time: Option<String>,
    version: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) refused_agent: Option<RefusedView>,
    pub(crate) networks: Vec<MembershipView>,
    /// How many more there are.
    pub(crate) networks_left_out: u32,
    #[serde(skip)]
    changed: Option<Timestamp>,
}

/// Another agent with the node's identity.
#[derive(Debug, Serialize)]
pub(crate) struct RefusedView {
    pub(crate) address: String,
    instance_id: String,
    time: Option<String>,
}

impl From<v1::RefusedAgent> for RefusedView {
    fn from(wire: v1::RefusedAgent) -> Self {
        let time = age::rfc3339(wire.refuse_time.as_ref());
        Self { address: wire.address, instance_id: wire.instance_id, time }
    }
}

/// A node in one network.
#[derive(Debug, Serialize)]
pub(crate) struct MembershipView {
    pub(crate) network: String,
    subnets: Vec<String>,
    pub(crate) converged: bool,
    /// Why it is not converged; empty when it is.
    pub(crate) reasons: Vec<String>,
    ready: bool,
    not_ready_reason: Option<String>,
    peers: u32,
    applied_revision: u64,
    current_revision: u64,
    failures: Vec<FailureView>,
    /// How many more there are.
    failures_left_out: u32,
    /// What its operator should know, converged or not.
    pub(crate) warnings: Vec<String>,
    /// How many more there are.
    warnings_left_out: u32,
    report_time: Option<String>,
    /// Why it has no lease, or was refused one though it has.
    refusal: Option<RefusalView>,
}

/// Why a node was refused a lease.
#[derive(Debug, Serialize)]
struct RefusalView {
    code: String,
    reason: Option<String>,
    message: String,
    address: String,
    since: Option<String>,
    time: Option<String>,
}

impl From<v1::LeaseRefusal> for RefusalView {
    fn from(wire: v1::LeaseRefusal) -> Self {
        Self {
            code: wire.code,
            reason: Some(wire.reason).filter(|reason| !reason.is_empty()),
            message: wire.message,
            address: wire.address,
            since: age::rfc3339(wire.since.as_ref()),
            time: age::rfc3339(wire.refuse_time.as_ref()),
        }
    }
}

#[derive(Debug, Serialize)]
struct FailureView {
    peer: String,
    message: String,
    since: Option<String>,
}

impl From<v1::Node> for NodeView {
    fn from(wire: v1::Node) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let disconnect_reason = given(wire.disconnect_reason).filter(|_| !wire.connected);
        let absent = (!wire.connected).then(|| match &disconnect_reason {
            Some(reason) => format!("not connected: {reason}"),
            None => "not connected".to_owned(),
        });
        Self {
            name: network::short(&wire.name),
            connected: wire.connected,
            since: age::rfc3339(wire.since.as_ref()),
            disconnect_reason,
            revoke_time: age::rfc3339(wire.revoke_time.as_ref()),
            version: given(wire.version),
            address: given(wire.address),
            refused_agent: wire.refused_agent.map(Into::into),
            networks: wire
                .networks
                .into_iter()
                .map(|membership| MembershipView::new(membership, absent.as_deref()))
                .collect(),
            networks_left_out: wire.networks_left_out,
            changed: wire.since,
        }
    }
}

impl MembershipView {
    fn new(wire: v1::NodeNetwork, absent: Option<&str>) -> Self {
        let reasons = if wire.converged { Vec::new() } else { reasons(&wire, absent) };
        Self {
            network: network::short(&wire.network),
            subnets: wire.subnets,
            converged: wire.converged,
            reasons,
            ready: wire.ready,
            not_ready_reason: Some(wire.not_ready_reason).filter(|reason| !reason.is_empty()),
            peers: wire.peers,
            applied_revision: wire.applied_revision,
            current_revision: wire.current_revision,
            failures: wire.failures.into_iter().map(Into::into).collect(),
            failures_left_out: wire.failures_left_out,
            warnings: wire.warnings,
            warnings_left_out: wire.warnings_left_out,
            report_time: age::rfc3339(wire.report_time.as_ref()),
            refusal: wire.refusal.map(Into::into),
        }
    }
}

impl From<v1::PeerFailure> for FailureView {
    fn from(wire: v1::PeerFailure) -> Self {
        Self { peer: wire.node, message: wire.message, since: age::rfc3339(wire.since.as_ref()) }
    }
}

/// Why a membership is not converged, the cause before its consequences. That a node without a lease is not
/// connected goes without saying.
fn reasons(wire: &v1::NodeNetwork, absent: Option<&str>) -> Vec<String> {
    let leased = !wire.subnets.is_empty();
    let mut reasons: Vec<String> = absent.filter(|_| leased).map(str::to_owned).into_iter().collect();
    reasons.extend(wire.refusal.as_ref().map(refused));
    if wire.report_time.is_some() {
        reasons.extend(not_ready(wire));
    }
    if leased && wire.report_time.is_none() {
        reasons.push("has not reported yet".to_owned());
    } else if leased && wire.applied_revision < wire.current_revision {
        reasons.push(format!("has applied revision {} of {}", wire.applied_revision, wire.current_revision));
    }
    reasons.extend(wire.failures.iter().map(|failure| format!("peer {}: {}", failure.node, failure.message)));
    match wire.failures_left_out {
        0 => {}
        1 => reasons.push("and 1 more peer".to_owned()),
        more => reasons.push(format!("and {more} more peers")),
    }
    if reasons.is_empty() {
        reasons.push("for a reason that the control plane did not give".to_owned());
    }
    reasons
}

/// What the control plane answered: reason, message and code, as the node itself says it.
fn refused(wire: &v1::LeaseRefusal) -> String {
    let what = if wire.code == WAIT { "waits for a lease" } else { "is refused a lease" };
    let reason = Some(wire.reason.as_str()).filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!("{reason}: ")).unwrap_or_default();
    format!("{what}: {reason}{} ({})", wire.message, wire.code)
}

/// What the node says itself, unless it only repeats why it was refused.
fn not_ready(wire: &v1::NodeNetwork) -> Option<String> {
    let said = wire.not_ready_reason.as_str();
    let repeats = |refusal: &v1::LeaseRefusal| said.contains(&refusal.message);
    if wire.ready || wire.refusal.as_ref().is_some_and(repeats) {
        return None;
    }
    Some(if said.is_empty() { "not ready".to_owned() } else { format!("not ready: {said}") })
}

impl View for NodeView {
    const COLUMNS: &'static [&'static str] =
        &["NODE", "CONNECTED", "NETWORK", "SUBNETS", "PEERS", "CONVERGED", "VERSION"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let word = match (self.connected, &self.revoke_time) {
            (true, _) => "yes",
            (false, None) => "no",
            (false, Some(_)) => "revoked",
        };
        let connected = format!("{word}, {}", age::relative(self.changed.as_ref(), now));
        let version = self.version.clone().unwrap_or_default();
        let row = |network: &str, subnets: String, peers: String, converged: String| {
            let texts = [&self.name, &connected, network, &subnets, &peers, &converged, &version];
            texts.into_iter().map(|text| or_dash(text.to_owned())).collect()
        };
        if self.networks.is_empty() {
            return vec![row("", String::new(), String::new(), String::new())];
        }
        let membership = |of: &MembershipView| {
            let converged = if of.converged { "yes".to_owned() } else { of.reasons.join("; ") };
            row(&of.network, of.subnets.join(" "), of.peers.to_string(), converged)
        };
        let mut rows: Vec<_> = self.networks.iter().map(membership).collect();
        if self.networks_left_out > 0 {
            let more = format!("and {} more", self.networks_left_out);
            rows.push(row(&more, String::new(), String::new(), String::new()));
        }
        rows
    }
}
