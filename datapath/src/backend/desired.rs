//! What should be in the kernel for a network: screened peers as tables, kept
//! up to date at the cost of what changes.
//!
//! ```text
//!  delta ─▶ Screen ─▶ nodes that changed ─▶ their old and new entries ─▶ plan
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
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
    pub upserted: Vec<Arc<Peer>>,
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

    /// Whether a peer passed all checks; what it lacks is another matter.
    #[must_use]
    pub fn accepts(&self, node: &NodeId) -> bool {
        self.screen.accepted(node).is_some()
    }

    /// Whether an accepted peer has an underlay address.
    #[must_use]
    pub fn knows(&self, address: IpAddr) -> bool {
        self.screen.holder(address).is_some()
    }

    /// Whether any accepted peer has its underlay address in a prefix.
    #[must_use]
    pub fn sends_into(&self, prefix: IpNet) -> bool {
        self.screen.has_address_in(prefix)
    }

    /// The peers that are not in the tables, or not whole, and why.
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
            if let Some(peer) = before {
                old.extend(peer_tables(&self.network, &self.me, &peer).tables);
            }
            self.place(node, &mut new);
        }
        self.turn(&old, new)
    }

    /// Notes whether an address on a link answers; the plan moves the peer that
    /// has it where that makes a difference.
    pub fn answers(&mut self, address: IpAddr, answers: bool) -> Plan {
        if self.me.underlay.unanswered.contains(&address) != answers {
            return Plan::default();
        }
        let Some(peer) = self.screen.holder(address).cloned() else { return Plan::default() };
        let old = peer_tables(&self.network, &self.me, &peer).tables;
        if answers {
            self.me.underlay.unanswered.remove(&address);
        } else {
            self.me.underlay.unanswered.insert(address);
        }
        let mut new = Tables::default();
        self.place(peer.node.clone(), &mut new);
        self.turn(&old, new)
    }

    /// Sorts a node by what it is now: into the tables, waiting or refused.
    fn place(&mut self, node: NodeId, new: &mut Tables) {
        self.refused.remove(&node);
        self.waiting.remove(&node);
        let Some(peer) = self.screen.accepted(&node) else {
            if let Some(reason) = self.screen.refused(&node) {
                self.refused.insert(node, reason.clone());
            }
            return;
        };
        let entries = peer_tables(&self.network, &self.me, peer);
        new.extend(entries.tables);
        match entries.lacking {
            Some(Reason::NotReady) => drop(self.waiting.insert(node)),
            Some(reason) => drop(self.refused.insert(node, reason)),
            None => {}
        }
    }

    fn turn(&mut self, old: &Tables, new: Tables) -> Plan {
        let plan = plan(old, &new);
        self.tables.remove(old);
        self.tables.extend(new);
        plan
    }

    /// Takes a whole set of peers: those that are not in it are gone.
    pub fn replace<P: Into<Arc<Peer>>>(&mut self, peers: impl IntoIterator<Item = P>) -> Plan {
        let mut upserted: Vec<Arc<Peer>> = peers.into_iter().map(Into::into).collect();
        upserted.sort_by(|a, b| a.node.cmp(&b.node));
        let present: BTreeSet<&NodeId> = upserted.iter().map(|peer| &peer.node).collect();
        let removed = self.screen.nodes().filter(|node| !present.contains(node)).cloned().collect();
        let plan = self.apply(Delta { removed, upserted });
        self.screen.pack();
        self.tables.pack();
        plan
    }
}
