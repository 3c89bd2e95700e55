//! The API: from wire to command, from answer to wire.
//!
//! ```text
//! request ─▶ Door ─▶ role table ─┬─ WatchPeers ─▶ Feeds::watch ─▶ its own body
//!           (access)             └─ the rest ─▶ whole? room? ─▶ tonic ─▶ convert ─▶ Clerk ─▶ convert
//!                                      (exchange)                             └─ InvalidValue, Refusal ─▶ Status
//! ```

pub mod access;
mod authority;
mod cluster;
mod connections;
mod copies;
mod door;
mod exchange;
mod identity;
mod inquiries;
mod lease;
mod network;
mod node;
mod page;
mod peer;
mod refusal;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::model::InstanceId;
use loden_proto::names::{ClusterName, NetworkId, NodeId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tracing::warn;

pub(crate) use self::door::Door;
pub(crate) use self::inquiries::Inquiries;
pub(crate) use self::watch::Watches;

use self::access::Caller;
use crate::adoption::Adoption;
use crate::audit::Audit;
use crate::clerk::{ClerkHandle, Settling};
use crate::colleagues::Colleagues;
use crate::feed::Feeds;
use crate::gate::Keeper;
use crate::held::Held;
use crate::identity::Signer;
use crate::joins::Limits;
use crate::knocks::Knocks;
use crate::ledger::{Knocked, LeaseState, Ledger};
use crate::metrics::Metrics;
use crate::registry::{Link, Registry};
use crate::replicas::Others;
use crate::sharing::Sharing;
use crate::status::Nodes;
use crate::watch::Streams;

/// What all services work on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: ClusterName,
    pub(crate) clerk: ClerkHandle,
    pub(crate) adoption: Adoption,
    pub(crate) feeds: Feeds,
    pub(crate) streams: Streams,
    pub(crate) settling: Settling,
    pub(crate) knocks: Knocks,
    pub(crate) nodes: Nodes,
    pub(crate) watches: Watches,
    pub(crate) held: Held,
    pub(crate) registry: Registry,
    pub(crate) signer: Signer,
    pub(crate) keeper: Keeper,
    /// The other control planes on the store, as they said last.
    pub(crate) others: Others,
    pub(crate) colleagues: Colleagues,
    /// About whom the others are being asked.
    pub(crate) inquiries: Inquiries,
    /// Where the CA is shared with other control planes.
    pub(crate) sharing: Option<Sharing>,
    pub(crate) limits: Limits,
    pub(crate) audit: Arc<Audit>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: SystemTime,
    /// Cancelled when the server is about to let its clients go.
    pub(crate) leaving: CancellationToken,
}

impl Shared {
    /// Why new nodes get no subnet though leases are not being adopted.
    pub(crate) fn knocked(&self, now: Instant) -> Option<Knocked> {
        self.knocks.heard(now).filter(|_| !self.clerk.read(Ledger::is_adopting))
    }

    /// How many nodes have an active lease in a network that they have not converged in, as all replicas know.
    pub(crate) fn unconverged(&self) -> usize {
        let Convergence { nodes, here } = self.convergence();
        let others = self.others.borrow();
        let elsewhere = others.iter().fold(0_u64, |all, other| all.saturating_add(other.note.converged));
        nodes.saturating_sub(here).saturating_sub(elsewhere.try_into().unwrap_or(usize::MAX))
    }

    /// How far the nodes with active leases are.
    pub(crate) fn convergence(&self) -> Convergence {
        let members: Vec<(NodeId, NetworkId)> = self.clerk.read(|ledger| {
            let active = ledger.leases(None, None).filter(|lease| lease.state == LeaseState::Active);
            active.map(|lease| (lease.name.node, lease.name.network)).collect()
        });
        let current = |network| self.feeds.last_change(network).unwrap_or_default();
        let behind =
            self.nodes.unconverged(members.iter().map(|(node, network)| (node, network, current(network))));
        let nodes = members.iter().map(|(node, _)| node).collect::<BTreeSet<_>>().len();
        Convergence { nodes, here: nodes.saturating_sub(behind) }
    }

    /// Keeps that another agent with a node's identity was refused, and says so once.
    fn copied(&self, node: &NodeId, instance: InstanceId, link: &Link) {
        self.audit.denied(link, "act as its node", "another agent with this identity is connected");
        if self.nodes.refused(node, instance, link.remote, SystemTime::now()) {
            let connected = self.nodes.address(node).map(|address| address.to_string());
            warn!(
                %node, refused = %link.remote, %instance, connected = connected.as_deref().unwrap_or("-"),
                "two agents have one identity; the second one is refused: was a disk or certificate copied?"
            );
        }
    }

    /// The nodes that hold a lease, are connected, are revoked, or are refused a lease.
    pub(crate) fn node_ids(&self) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<NodeId> =
            self.clerk.read(|ledger| ledger.leases(None, None).map(|lease| lease.name.node).collect());
        self.nodes.retain(&nodes);
        nodes.extend(self.nodes.connected());
        self.clerk.read(|ledger| nodes.extend(ledger.revoked().cloned()));
        nodes.extend(self.nodes.unleased(SystemTime::now()));
        nodes
    }
}

/// How far nodes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convergence {
    /// Those with active leases.
    pub(crate) nodes: usize,
    /// Those of them that have told this replica that they have converged.
    pub(crate) here: usize,
}

/// How many leases are in use.
pub(crate) fn active_leases(ledger: &Ledger) -> usize {
    ledger.leases(None, None).filter(|lease| lease.state == LeaseState::Active).count()
}

/// Who calls; the door has put it there.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("the call did not come over an authenticated connection"))
}
