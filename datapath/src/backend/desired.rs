//! What should be in the kernel for a network: screened peers as tables, kept
//! up to date at the cost of what changes.
//!
//! ```text
//!  delta ─▶ Screen ─▶ nodes that changed ─▶ their old and new entries ─▶ plan
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loden_proto::model::{Network, Peer};
use loden_proto::names::NodeId;

use super::screen::{Screen, Verdict};
use super::{Me, Reason, own_tables, peer_tables};
use crate::plan::{Plan, plan};
use crate::tables::Tables;

/// Peers that came, changed or left.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Delta {
    /// Peers that left; taken first.
    pub removed: Vec<NodeId>,
    /// Peers that came or changed.
    pub upserted: Vec<Peer>,
}

/// What should be in the kernel for one network on this host.
#[derive(Clone, Debug)]
pub struct Desired {
    network: Network,
    me: Me,
    screen: Screen,
    tables: Tables,
    refused: BTreeMap<NodeId, Reason>,
    waiting: BTreeSet<NodeId>,
}

impl Desired {
    /// Without peers.
    #[must_use]
    pub fn new(network: Network, me: Me) -> Self {
        let screen = Screen::new(&network, &me);
        let tables = own_tables(&network, &me);
        Self { network, me, screen, tables, refused: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// The network.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// This host.
    #[must_use]
    pub const fn me(&self) -> &Me {
        &self.me
    }

    /// The tables, whole.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The peers that are not in the tables, and why.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<NodeId, Reason> {
        &self.refused
    }

    /// The peers that receive on nothing yet, as every node between its lease
    /// and its first device: nothing is wrong with them.
    #[must_use]
    pub const fn waiting(&self) -> &BTreeSet<NodeId> {
        &self.waiting
    }

    /// Takes a change. The plan is about the changed entries only and is right
    /// when the kernel held what was desired before.
    pub fn apply(&mut self, delta: Delta) -> Plan {
        let mut before: BTreeMap<NodeId, Option<Arc<Peer>>> = BTreeMap::new();
        let mut note = |verdicts: Vec<Verdict>| {
            for verdict in verdicts {
                before.entry(verdict.node).or_insert(verdict.before);
            }
        };
        for node in &delta.removed {
            note(self.screen.remove(node));
        }
        for peer in delta.upserted {
            note(self.screen.upsert(peer));
        }
        let mut old = Tables::default();
        let mut new = Tables::default();
        for (node, before) in before {
            if let Some(Ok(entries)) = before.map(|peer| peer_tables(&self.network, &self.me, &peer)) {
                old.extend(entries);
            }
            self.refused.remove(&node);
            self.waiting.remove(&node);
            let accepted = self.screen.accepted(&node).map(|peer| peer_tables(&self.network, &self.me, peer));
            match accepted {
                Some(Ok(entries)) => new.extend(entries),
                Some(Err(Reason::NotReady)) => drop(self.waiting.insert(node)),
                Some(Err(reason)) => drop(self.refused.insert(node, reason)),
                None => {
                    if let Some(reason) = self.screen.refused(&node) {
                        self.refused.insert(node, reason.clone());
                    }
                }
            }
        }
        let plan = plan(&old, &new);
        self.tables.remove(&old);
        self.tables.extend(new);
        plan
    }

    /// Takes a whole set of peers: those that are not in it are gone.
    pub fn replace(&mut self, peers: impl IntoIterator<Item = Peer>) -> Plan {
        let mut upserted: Vec<Peer> = peers.into_iter().collect();
        upserted.sort_by(|a, b| a.node.cmp(&b.node));
        let present: BTreeSet<&NodeId> = upserted.iter().map(|peer| &peer.node).collect();
        let removed = self.screen.nodes().filter(|node| !present.contains(node)).cloned().collect();
        self.apply(Delta { removed, upserted })
    }
}
