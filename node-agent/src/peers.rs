//! The peers of a network as the control plane told them, and how they change.
//!
//! ```text
//! v1::Peer ──parse──▶ Peer | Refused ──Update──▶ PeerSet::apply ──▶ Changes (names only)
//! ```
//!
//! "Not known yet" is `Option<PeerSet>`, never an empty set. The set keeps the
//! token that it can be resumed from: what it means is the server's business,
//! and it is the server that never sends an older snapshot of the same
//! incarnation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use loden_proto::model::{Network, Peer};
use loden_proto::names::NodeId;
use loden_proto::v1;
use serde::{Deserialize, Serialize};

/// Where a watch can be resumed. Opaque.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct Token(Arc<[u8]>);

impl Token {
    /// As it is sent back.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Token {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Token> for Vec<u8> {
    fn from(token: Token) -> Self {
        token.0.to_vec()
    }
}

/// A peer that cannot be read. It is named, and delays nobody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The peer's name as it was sent.
    pub node: String,
    /// Which field broke which rule.
    pub reason: String,
}

/// The whole set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The peers that could be read.
    pub peers: Vec<Peer>,
    /// Those that could not.
    pub refused: Vec<Refused>,
    /// The network as it is.
    pub network: Box<Network>,
    /// The set is not whole: add and update, delete nothing.
    pub adopting: bool,
    /// Where to resume.
    pub token: Token,
}

/// A change of the set.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Delta {
    /// Whole peers, new or changed.
    pub upserts: Vec<Peer>,
    /// Peers, new or changed, that could not be read.
    pub refused: Vec<Refused>,
    /// Names of those that are gone.
    pub removed: Vec<String>,
    /// Set when the network itself changed.
    pub network: Option<Box<Network>>,
    /// Where to resume.
    pub token: Option<Token>,
}

/// What a watch has to say about the peers; always as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Update {
    /// The whole set.
    Snapshot(Snapshot),
    /// A change of it.
    Delta(Delta),
}

impl Update {
    /// Where to resume after it.
    #[must_use]
    pub const fn token(&self) -> Option<&Token> {
        match self {
            Self::Snapshot(snapshot) => Some(&snapshot.token),
            Self::Delta(delta) => delta.token.as_ref(),
        }
    }
}

/// Which peers an update touched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// New, or of another value than before.
    pub set: BTreeSet<NodeId>,
    /// No longer there, with their last value.
    pub unset: Vec<Arc<Peer>>,
}

/// All peers of a network, each shared with whoever programs it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerSet {
    peers: BTreeMap<NodeId, Arc<Peer>>,
    refused: BTreeMap<String, String>,
    token: Option<Token>,
    grounded: bool,
}

impl PeerSet {
    /// A set as it was kept; `token` is none for one that is not whole.
    #[must_use]
    pub fn restored(
        peers: Vec<Peer>,
        refused: BTreeMap<String, String>,
        token: Option<Token>,
        grounded: bool,
    ) -> Self {
        let peers = peers.into_iter().map(|peer| (peer.node.clone(), peer.into())).collect();
        Self { peers, refused, token, grounded }
    }

    /// The peers by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> + Clone {
        self.peers.values()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, node: &NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(node)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Peers that could not be read, with the reason.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// Where to resume; none while the set is not whole, so that the server
    /// answers with a snapshot.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Whether it is all that there is. Only then may anything be deleted.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.token.is_some()
    }

    /// Whether it has ever been whole: what came since was added to all that
    /// there was.
    #[must_use]
    pub fn is_grounded(&self) -> bool {
        self.grounded
    }

    /// Takes an update in. Of a set that is not whole nobody is taken away,
    /// save a peer whose subnet the server has since confirmed for another.
    pub fn apply(&mut self, update: Update) -> Changes {
        match update {
            Update::Snapshot(snapshot) if snapshot.adopting => {
                self.token = None;
                self.merge(snapshot.peers, snapshot.refused)
            }
            Update::Snapshot(snapshot) => self.replace(snapshot),
            Update::Delta(delta) if !self.is_whole() => self.merge(delta.upserts, delta.refused),
            Update::Delta(delta) => self.change(delta),
        }
    }

    fn replace(&mut self, snapshot: Snapshot) -> Changes {
        let mut changes = Changes::default();
        let mut before = std::mem::take(&mut self.peers);
        let peers = snapshot.peers.into_iter().map(|peer| {
            let known = before.remove(&peer.node).filter(|known| **known == peer);
            if known.is_none() {
                changes.set.insert(peer.node.clone());
            }
            (peer.node.clone(), known.unwrap_or_else(|| peer.into()))
        });
        self.peers = peers.collect();
        changes.unset = before.into_values().collect();
        self.refused = snapshot.refused.into_iter().map(|refused| (refused.node, refused.reason)).collect();
        self.token = Some(snapshot.token);
        self.grounded = true;
        changes
    }

    fn change(&mut self, delta: Delta) -> Changes {
        let mut changes = Changes::default();
        for node in delta.removed {
            self.refused.remove(&node);
            changes.unset.extend(self.take(&node));
        }
        for refused in delta.refused {
            // Its last value is known to be wrong: a snapshot would not have it.
            changes.unset.extend(self.take(&refused.node));
            self.refused.insert(refused.node, refused.reason);
        }
        for peer in delta.upserts {
            self.set(peer, &mut changes);
        }
        changes.unset.retain(|peer| !self.peers.contains_key(&peer.node));
        if let Some(token) = delta.token {
            self.token = Some(token);
        }
        changes
    }

    fn merge(&mut self, peers: Vec<Peer>, refused: Vec<Refused>) -> Changes {
        let mut changes = Changes::default();
        let mut holders: HashMap<IpNet, NodeId> = HashMap::new();
        for peer in self.peers.values() {
            holders.extend(peer.subnets.iter().map(|subnet| (subnet, peer.node.clone())));
        }
        for peer in peers {
            let others = peer.subnets.iter().filter_map(|subnet| holders.get(&subnet).cloned());
            for other in others.filter(|other| *other != peer.node).collect::<BTreeSet<_>>() {
                changes.set.remove(&other);
                changes.unset.extend(self.peers.remove(&other));
            }
            holders.extend(peer.subnets.iter().map(|subnet| (subnet, peer.node.clone())));
            self.set(peer, &mut changes);
        }
        self.refused.extend(refused.into_iter().map(|refused| (refused.node, refused.reason)));
        changes
    }

    fn set(&mut self, peer: Peer, changes: &mut Changes) {
        self.refused.remove(peer.node.as_str());
        if self.peers.get(&peer.node).is_none_or(|known| **known != peer) {
            changes.set.insert(peer.node.clone());
            self.peers.insert(peer.node.clone(), peer.into());
        }
    }

    fn take(&mut self, node: &str) -> Option<Arc<Peer>> {
        let node: NodeId = node.parse().ok()?;
        self.peers.remove(&node)
    }
}

/// Reads peers; one that cannot be read does not hinder the others.
#[must_use]
pub fn parse(wire: Vec<v1::Peer>) -> (Vec<Peer>, Vec<Refused>) {
    let mut peers = Vec::with_capacity(wire.len());
    let mut refused = Vec::new();
    for peer in wire {
        let node = peer.node.clone();
        match Peer::try_from(peer) {
            Ok(peer) => peers.push(peer),
            Err(invalid) => refused.push(Refused { node, reason: invalid.to_string() }),
        }
    }
    (peers, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{network, peer};

    fn snapshot(numbers: &[u8], adopting: bool) -> Update {
        let peers = numbers.iter().map(|number| peer(*number)).collect();
        let token = Token::from(numbers.to_vec());
        Update::Snapshot(Snapshot { peers, refused: Vec::new(), network: network().into(), adopting, token })
    }

    fn names(set: &PeerSet) -> Vec<&str> {
        set.iter().map(|peer| peer.node.as_str()).collect()
    }

    #[test]
    fn a_snapshot_replaces_and_tells_only_what_differs() {
        let mut set = PeerSet::default();
        set.apply(snapshot(&[1, 2], false));
        let changes = set.apply(snapshot(&[2, 3], false));
        assert_eq!(names(&set), ["node-2", "node-3"]);
        assert_eq!(changes.set, BTreeSet::from(["node-3".parse().unwrap()]));
        assert_eq!(changes.unset, [peer(1).into()]);
        assert_eq!(set.token(), Some(&Token::from(vec![2, 3])));
    }

    #[test]
    fn an_adopting_snapshot_takes_nobody_away_and_leaves_no_token() {
        let mut set = PeerSet::default();
        set.apply(snapshot(&[1, 2], false));
        let changes = set.apply(snapshot(&[3], true));
        assert_eq!(names(&set), ["node-1", "node-2", "node-3"]);
        assert!(changes.unset.is_empty() && !set.is_whole());
        assert_eq!(set.token(), None);

        let gone = Delta { removed: vec!["node-1".into()], token: Some(vec![9].into()), ..Delta::default() };
        assert_eq!(set.apply(Update::Delta(gone)), Changes::default());
        assert_eq!((set.len(), set.token()), (3, None));

        assert_eq!(set.apply(snapshot(&[3], false)).unset, [peer(1).into(), peer(2).into()]);
        assert!(set.is_whole());
    }

    #[test]
    fn a_subnet_confirmed_for_another_leaves_its_old_peer() {
        let mut set = PeerSet::default();
        set.apply(snapshot(&[1, 2], false));
        let heir = Peer { node: "heir".parse().unwrap(), ..peer(1) };
        let Update::Snapshot(mut adopting) = snapshot(&[], true) else { unreachable!() };
        adopting.peers.push(heir);
        let changes = set.apply(Update::Snapshot(adopting));
        assert_eq!(names(&set), ["heir", "node-2"]);
        assert_eq!(changes.unset, [peer(1).into()]);
    }

    #[test]
    fn an_equal_upsert_changes_nothing_and_a_refused_one_is_named() {
        let mut set = PeerSet::default();
        set.apply(snapshot(&[1, 2], false));
        let same = Delta { upserts: vec![peer(1)], ..Delta::default() };
        assert_eq!(set.apply(Update::Delta(same)), Changes::default());

        let refused = vec![Refused { node: "node-2".into(), reason: "subnets: is required".into() }];
        let changes = set.apply(Update::Delta(Delta { refused, ..Delta::default() }));
        assert_eq!(changes.unset, [peer(2).into()]);
        assert_eq!(set.refused().get("node-2").map(String::as_str), Some("subnets: is required"));

        set.apply(Update::Delta(Delta { upserts: vec![peer(2)], ..Delta::default() }));
        assert!(set.refused().is_empty());
    }

    #[test]
    fn a_peer_that_cannot_be_read_does_not_hinder_the_others() {
        let mut bad = v1::Peer::from(&peer(1));
        bad.subnets.clear();
        let (peers, refused) = parse(vec![bad, v1::Peer::from(&peer(2))]);
        assert_eq!(peers, [peer(2)]);
        assert_eq!((refused[0].node.as_str(), refused.len()), ("node-1", 1));
    }
}
