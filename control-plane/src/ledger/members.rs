//! Who is let in: nodes by their identity epoch, and tokens that make nodes.
//!
//! ```text
//!  token ──join──▶ member, epoch n ──revoke──▶ revoked, epoch n + 1 ──token for it──▶ member, epoch n + 1
//!                        └──delete──▶ deleted, epoch n + 1 ──any token──▶ member, epoch n + 1
//! ```
//!
//! A certificate says the epoch in which it was made (`transport/src/holder.rs`); one of a lower epoch than the node's is
//! refused. A node without a record is let in with any.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::SystemTime;

use loden_proto::model::TokenId;
use loden_proto::names::{NetworkId, NodeId};

use super::Ledger;
use super::record::{IdentityRecord, SpentRecord, Standing, Stored, TokenRecord};
use crate::store::Revision;

/// A node, as it is let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// What its certificates have at least.
    pub epoch: u32,
    /// In which it may have leases; none: in all.
    pub networks: Option<Vec<NetworkId>>,
    /// Since when it is shut out, if it is.
    pub shut_out: Option<SystemTime>,
    /// It is shut out for good: another host may have its name.
    pub deleted: bool,
}

/// What lets hosts join.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// Its name.
    pub id: TokenId,
    /// The only node that it lets in; none: any new one.
    pub node: Option<NodeId>,
    /// In which its nodes may have leases; none: in all.
    pub networks: Option<Vec<NetworkId>>,
    /// How many it still lets in.
    pub left: u32,
    /// When it was made.
    pub created: SystemTime,
    /// It lets nobody in after this time.
    pub expires: SystemTime,
}

/// The records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Members {
    pub(super) identities: BTreeMap<NodeId, Stored<IdentityRecord>>,
    /// The last change of an identity.
    changed: Revision,
    pub(super) tokens: BTreeMap<TokenId, Stored<TokenRecord>>,
    pub(super) spent: BTreeMap<(TokenId, String), Stored<SpentRecord>>,
}

/// A record that has changed.
pub(super) enum Change {
    Identity(NodeId, Option<IdentityRecord>),
    Token(TokenId, Option<TokenRecord>),
    Spent(TokenId, String, Option<SpentRecord>),
}

impl Members {
    pub(super) fn apply(&mut self, change: Change, revision: Revision) {
        match change {
            Change::Identity(node, record) => {
                self.changed = self.changed.max(revision);
                put(&mut self.identities, node, record, revision);
            }
            Change::Token(id, record) => put(&mut self.tokens, id, record, revision),
            Change::Spent(id, key, record) => put(&mut self.spent, (id, key), record, revision),
        }
    }

    fn member(&self, node: &NodeId) -> Option<Member> {
        let record = &self.identities.get(node)?.record;
        Some(Member {
            node: node.clone(),
            epoch: record.epoch,
            networks: record.networks.clone(),
            shut_out: (record.standing != Standing::Member).then(|| record.since.into()),
            deleted: record.standing == Standing::Deleted,
        })
    }
}

fn put<K: Ord, T>(map: &mut BTreeMap<K, Stored<T>>, key: K, record: Option<T>, revision: Revision) {
    match record {
        Some(record) => drop(map.insert(key, Stored { record, revision })),
        None => drop(map.remove(&key)),
    }
}

fn token((id, stored): (&TokenId, &Stored<TokenRecord>)) -> Token {
    let TokenRecord { secret: _, node, networks, left, created, expires } = &stored.record;
    Token {
        id: *id,
        node: node.clone(),
        networks: networks.clone(),
        left: *left,
        created: (*created).into(),
        expires: (*expires).into(),
    }
}

impl Ledger {
    /// A node that is let in, or was shut out; none: no word was ever said of it.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<Member> {
        self.members.member(node)
    }

    /// What a certificate of a node has to have at least.
    #[must_use]
    pub fn identity_epoch(&self, node: &NodeId) -> u32 {
        self.members.identities.get(node).map_or(0, |stored| stored.record.epoch)
    }

    /// The nodes that were revoked, by name.
    pub fn revoked(&self) -> impl Iterator<Item = &NodeId> {
        let identities = self.members.identities.iter();
        identities.filter(|(_, stored)| stored.record.standing == Standing::Revoked).map(|(node, _)| node)
    }

    /// The last revision that has changed who is let in.
    #[must_use]
    pub const fn members_changed(&self) -> Revision {
        self.members.changed
    }

    /// One token.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<Token> {
        self.members.tokens.get_key_value(&id).map(token)
    }

    /// The tokens, by name, from the one after `after` on.
    pub fn tokens(&self, after: Option<TokenId>) -> impl Iterator<Item = Token> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.tokens.range((from, Bound::Unbounded)).map(token)
    }
}
