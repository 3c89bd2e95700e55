//! What is known of each node beside its leases: whether it is connected, and what it has reported.
//!
//! ```text
//!  WatchPeers opens/ends ──▶ cell of the node ◀── ReportStatus
//!                                 │
//!        leases (ledger) ──▶ NodeService, ClusterService, metrics
//!                                 │
//!  AcquireLease in vain ──▶ attempts of the node (`attempts`)
//! ```
//!
//! One cell per node, written only for that node: nothing of it ever enters the store or the peer feed.

mod attempts;
mod bound;
#[cfg(test)]
mod tests;
pub(crate) mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use loden_proto::convert::{beyond, timestamp};
use loden_proto::model::{InstanceId, LeaseName, Subnets};
use loden_proto::names::{self, NetworkId, NodeId};
use loden_proto::v1;
use tonic::Status;

use self::attempts::{Attempts, SHOWN, is_shown};
use crate::registry::Link;

pub(crate) use self::attempts::Unserved;

/// Reports that one server takes per second at most, less some room for those sent at once.
const REPORTS_PER_SECOND: u32 = 400;
/// The shortest time between two reports of one watch.
const SHORTEST_PACE: Duration = Duration::from_secs(2);
/// Failures of one report that are kept.
const FAILURES: usize = 100;
/// Warnings of one report that are kept.
const WARNINGS: usize = 20;
/// Longest text of a report or refusal that is kept, in characters.
const TEXT: usize = 256;

/// All nodes' cells.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    cells: Arc<Mutex<Cells>>,
}

#[derive(Debug, Default)]
struct Cells {
    of: HashMap<NodeId, Cell>,
    attempts: Attempts,
    /// How many reports are filed, of all nodes.
    filed: usize,
}

#[derive(Debug)]
struct Cell {
    watches: usize,
    since: SystemTime,
    reason: String,
    version: String,
    /// Where its newest watch comes from.
    address: Option<SocketAddr>,
    refused: Option<Refused>,
    /// Boxed: a map makes room for eleven, and most nodes have one.
    filed: BTreeMap<NetworkId, Box<Filed>>,
}

/// Another agent with the node's identity.
#[derive(Debug)]
struct Refused {
    instance: InstanceId,
    address: SocketAddr,
    at: SystemTime,
}

#[derive(Debug)]
struct Filed {
    report: Report,
    at: SystemTime,
    /// Since when each of the report's failures is known.
    since: Vec<SystemTime>,
}

/// What a node has made of a network's peers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// The revision that it has programmed; 0 when its token tells none.
    pub applied: u64,
    /// Whether it forwards a whole set.
    pub ready: bool,
    /// Why it does not; empty when it does or has not said.
    pub not_ready_reason: String,
    /// Peers programmed.
    pub peers: u32,
    /// Peers that it could not program or refused: node, and what failed and why.
    pub failures: Vec<(String, String)>,
    /// How many more such peers there are than are kept.
    pub failures_left_out: u32,
    /// What its operator should know though it forwards.
    pub warnings: Vec<String>,
    /// How many more there are than are kept.
    pub warnings_left_out: u32,
    /// The agent's version.
    pub version: String,
}

impl Report {
    /// What a request says, cut to what is kept. `applied` is from its token.
    #[must_use]
    pub fn new(wire: &v1::ReportStatusRequest, applied: u64) -> Self {
        let failures = wire.failures.iter().take(FAILURES);
        Self {
            applied,
            ready: wire.ready,
            not_ready_reason: if wire.ready { String::new() } else { cut(&wire.not_ready_reason) },
            peers: wire.peers,
            failures: failures.map(|failure| (cut(&failure.node), cut(&failure.message))).collect(),
            failures_left_out: beyond(wire.failures.len(), FAILURES).saturating_add(wire.failures_left_out),
            warnings: wire.warnings.iter().take(WARNINGS).map(|text| cut(text)).collect(),
            warnings_left_out: beyond(wire.warnings.len(), WARNINGS).saturating_add(wire.warnings_left_out),
            version: cut(&wire.version),
        }
    }

    /// Whether the node has programmed everything up to `current`.
    #[must_use]
    pub fn is_converged(&self, current: u64) -> bool {
        self.ready && self.failures.is_empty() && self.applied >= current
    }
}

/// A node in a network, as the ledger knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Membership {
    pub(crate) network: NetworkId,
    pub(crate) subnets: Subnets,
    /// The revision of the network's last change.
    pub(crate) current: u64,
}

/// A node's open watch; it counts as connected as long as one lives.
#[derive(Debug)]
pub(crate) struct OpenWatch {
    nodes: Nodes,
    node: NodeId,
    link: Arc<Link>,
}

impl Nodes {
    /// Counts a watch as open until the answer is dropped.
    pub(crate) fn watch_opened(&self, node: NodeId, link: Arc<Link>, now: SystemTime) -> OpenWatch {
        let mut cells = self.cells();
        let cell = cells.cell(&node, now);
        if cell.watches == 0 {
            cell.since = now;
            cell.reason.clear();
        }
        cell.watches += 1;
        cell.address = Some(link.remote);
        drop(cells);
        OpenWatch { nodes: self.clone(), node, link }
    }

    /// Keeps that another agent with a node's identity was refused. Answers whether that is news: it is not shown
    /// yet.
    pub(crate) fn refused(
        &self,
        node: &NodeId,
        instance: InstanceId,
        address: SocketAddr,
        now: SystemTime,
    ) -> bool {
        let mut cells = self.cells();
        let Some(cell) = cells.of.get_mut(node) else { return false };
        let refused = Refused { instance, address, at: now };
        let last = cell.refused.replace(refused);
        last.is_none_or(|last| last.address.ip() != address.ip() || !is_shown(last.at, SHOWN, now))
    }

    /// Keeps that a node was refused a lease.
    pub(crate) fn lease_refused(&self, name: &LeaseName, status: &Status, from: SocketAddr, now: SystemTime) {
        self.cells().attempts.refused(name, status, from, now);
    }

    /// Keeps why a node without a lease says that it is not ready.
    pub(crate) fn not_ready(&self, name: &LeaseName, why: &str, now: SystemTime) {
        self.cells().attempts.said(name, why, now);
    }

    /// Forgets that a node was refused a lease.
    pub(crate) fn lease_granted(&self, name: &LeaseName) {
        self.cells().attempts.granted(name);
    }

    /// The nodes that are refused a lease.
    pub(crate) fn unleased(&self, now: SystemTime) -> BTreeSet<NodeId> {
        self.cells().attempts.nodes(now).cloned().collect()
    }

    /// How many nodes get no lease.
    pub(crate) fn unserved(&self, now: SystemTime) -> Unserved {
        self.cells().attempts.unserved(now)
    }

    /// Where a connected node's newest watch comes from.
    pub(crate) fn address(&self, node: &NodeId) -> Option<SocketAddr> {
        self.cells().of.get(node)?.address
    }

    /// Keeps why a connection of a node ended, if the node is gone with it.
    pub(crate) fn connection_ended(&self, node: &NodeId, why: &str) {
        if let Some(cell) = self.cells().of.get_mut(node).filter(|cell| cell.watches == 0) {
            why.clone_into(&mut cell.reason);
        }
    }

    /// Files a report. Answers how long to wait before the next one.
    pub(crate) fn file(
        &self,
        node: &NodeId,
        network: NetworkId,
        report: Report,
        now: SystemTime,
    ) -> Duration {
        let mut cells = self.cells();
        let cell = cells.cell(node, now);
        let known: HashMap<_, _> = cell
            .filed
            .get(&network)
            .map(|filed| filed.report.failures.iter().cloned().zip(filed.since.iter().copied()).collect())
            .unwrap_or_default();
        let since = report.failures.iter().map(|failure| known.get(failure).copied().unwrap_or(now));
        let since = since.collect();
        cell.version.clone_from(&report.version);
        let first = cell.filed.insert(network, Box::new(Filed { report, at: now, since })).is_none();
        cells.filed += usize::from(first);
        pace(cells.filed)
    }

    /// Drops what is known of nodes that are neither connected nor in `leased`.
    pub(crate) fn retain(&self, leased: &BTreeSet<NodeId>) {
        let mut cells = self.cells();
        cells.of.retain(|node, cell| cell.watches > 0 || leased.contains(node));
        cells.filed = cells.of.values().map(|cell| cell.filed.len()).sum();
    }

    /// The nodes that are connected.
    pub(crate) fn connected(&self) -> BTreeSet<NodeId> {
        let cells = self.cells();
        cells.of.iter().filter(|(_, cell)| cell.watches > 0).map(|(node, _)| node.clone()).collect()
    }

    /// How many of the nodes have a network that they have not converged in.
    pub(crate) fn unconverged<'a>(
        &self,
        members: impl Iterator<Item = (&'a NodeId, &'a NetworkId, u64)>,
    ) -> usize {
        let cells = self.cells();
        let behind = members.filter(|(node, network, current)| {
            !cells.of.get(*node).is_some_and(|cell| cell.is_converged(network, *current))
        });
        behind.map(|(node, _, _)| node).collect::<BTreeSet<_>>().len()
    }

    /// A node with its memberships, for operators.
    pub(crate) fn view(&self, node: &NodeId, memberships: &[Membership], now: SystemTime) -> v1::Node {
        let cells = self.cells();
        let cell = cells.of.get(node);
        let mut networks = memberships.iter().map(|membership| in_network(cell, membership)).collect();
        cells.attempts.show(node, &mut networks, now);
        let since = cell.map(|cell| cell.since).or_else(|| cells.attempts.since(node, now));
        let mut view = v1::Node {
            name: names::node(node),
            connected: cell.is_some_and(|cell| cell.watches > 0),
            since: since.map(timestamp),
            disconnect_reason: cell.map(|cell| cell.reason.clone()).unwrap_or_default(),
            networks,
            version: cell.map(|cell| cell.version.clone()).unwrap_or_default(),
            address: cell
                .and_then(|cell| cell.address)
                .map(|address| address.to_string())
                .unwrap_or_default(),
            refused_agent: cell.and_then(|cell| cell.refused.as_ref()).and_then(|refused| refused.view(now)),
            networks_left_out: 0,
            revoke_time: None,
        };
        drop(cells);
        bound::bound(&mut view, bound::MOST);
        view
    }

    /// A panic elsewhere leaves each cell whole.
    fn cells(&self) -> MutexGuard<'_, Cells> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cells {
    fn cell(&mut self, node: &NodeId, now: SystemTime) -> &mut Cell {
        self.of.entry(node.clone()).or_insert_with(|| Cell::new(now))
    }
}

impl Cell {
    /// Whether the node follows and has programmed everything. Of one that is away nobody knows.
    fn is_converged(&self, network: &NetworkId, current: u64) -> bool {
        self.watches > 0 && self.filed.get(network).is_some_and(|filed| filed.report.is_converged(current))
    }

    fn new(now: SystemTime) -> Self {
        Self {
            watches: 0,
            since: now,
            reason: String::new(),
            version: String::new(),
            address: None,
            refused: None,
            filed: BTreeMap::new(),
        }
    }
}

impl Refused {
    fn view(&self, now: SystemTime) -> Option<v1::RefusedAgent> {
        is_shown(self.at, SHOWN, now).then(|| v1::RefusedAgent {
            address: self.address.to_string(),
            instance_id: self.instance.to_string(),
            refuse_time: Some(timestamp(self.at)),
        })
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut cells = self.nodes.cells();
        let Some(cell) = cells.of.get_mut(&self.node) else { return };
        cell.watches -= 1;
        if cell.watches == 0 {
            cell.since = SystemTime::now();
            cell.address = None;
            cell.reason =
                self.link.reason().map_or_else(|| "the watch ended".to_owned(), ToString::to_string);
        }
    }
}

fn in_network(cell: Option<&Cell>, membership: &Membership) -> v1::NodeNetwork {
    let mut view = v1::NodeNetwork {
        network: names::network(&membership.network),
        subnets: membership.subnets.iter().map(|net| net.to_string()).collect(),
        current_revision: membership.current,
        ..Default::default()
    };
    let filed = cell.and_then(|cell| cell.filed.get(&membership.network));
    if let Some(Filed { report, at, since }) = filed.map(Box::as_ref) {
        view.applied_revision = report.applied;
        view.converged = cell.is_some_and(|cell| cell.is_converged(&membership.network, membership.current));
        view.ready = report.ready;
        view.not_ready_reason.clone_from(&report.not_ready_reason);
        view.warnings.clone_from(&report.warnings);
        view.peers = report.peers;
        view.report_time = Some(timestamp(*at));
        let failures = report.failures.iter().zip(since);
        view.failures_left_out = report.failures_left_out;
        view.warnings_left_out = report.warnings_left_out;
        view.failures = failures
            .map(|((node, message), since)| v1::PeerFailure {
                node: node.clone(),
                message: message.clone(),
                since: Some(timestamp(*since)),
            })
            .collect();
    }
    view
}

/// As much of a text as is kept.
fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// How long each of `reporters` waits between two reports.
fn pace(reporters: usize) -> Duration {
    let reporters = u32::try_from(reporters).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * reporters / REPORTS_PER_SECOND).max(SHORTEST_PACE)
}
