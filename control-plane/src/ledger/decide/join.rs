//! Tokens, and joining with one.

use loden_proto::InvalidValue;
use loden_proto::convert::TokenOrder;
use loden_proto::model::{LeaseName, TokenId};
use loden_proto::names::{NetworkId, NodeId};

use super::draft::{Draft, STEP, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Joiner, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::members::Members;
use crate::ledger::record::{IdentityRecord, SpentRecord, Stamp, Standing, TokenRecord};
use crate::ledger::refusal::{Named, Refusal, Shut};

impl Ledger {
    /// Makes a token.
    pub(super) fn create_token(
        &self,
        id: TokenId,
        secret: &str,
        order: &TokenOrder,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        for network in order.networks.iter().flatten() {
            self.open_network(network)?;
        }
        if self.members.tokens.contains_key(&id) {
            // Of 4 billion: whoever asks again gets another one.
            return Err(Refusal::Exists(Named::Token(id)));
        }
        let now = Stamp::from(context.now);
        let record = TokenRecord {
            secret: secret.to_owned(),
            node: order.node.clone(),
            networks: order.networks.clone(),
            left: order.uses,
            created: now,
            expires: now.plus(order.ttl),
        };
        let mut draft = Draft::default();
        draft.put(&RecordKey::Token(id), &record, None);
        Ok(draft.finish(Want::Token(id)))
    }

    /// Takes a token away. Who has joined with it is forgotten by tidying.
    pub(super) fn delete_token(&self, id: TokenId) -> Result<Decision, Refusal> {
        let token = self.members.tokens.get(&id).ok_or(Refusal::NotFound(Named::Token(id)))?;
        let mut draft = Draft::default();
        draft.delete(&RecordKey::Token(id), token.revision);
        Ok(draft.finish(Want::Nothing))
    }

    /// Spends a token for a node. Repeating it with the same key spends nothing.
    pub(super) fn join(&self, joiner: &Joiner, context: &Context<'_>) -> Result<Decision, Refusal> {
        let id = joiner.token;
        let token = self.members.tokens.get(&id).filter(|token| token.record.secret == joiner.secret);
        let token = token.ok_or(Shut::NoToken(id))?;
        let now = Stamp::from(context.now);
        if token.record.expires <= now {
            return Err(Shut::Expired(id).into());
        }
        let node = match (&token.record.node, &joiner.node) {
            (Some(bound), Some(asked)) if bound != asked => {
                let (bound, asked) = (bound.clone(), asked.clone());
                return Err(Shut::Bound { token: id, bound, asked }.into());
            }
            (Some(node), _) | (None, Some(node)) => node,
            (None, None) => return Err(InvalidValue::missing("node").into()),
        };
        let identity = self.members.identities.get(node);
        let epoch = identity.map_or(0, |identity| identity.record.epoch);
        let spent = self.members.spent.get(&(id, joiner.key.clone()));
        let want = Want::Member(node.clone());
        let networks = &token.record.networks;
        if let Some(spent) = spent {
            if spent.record != (SpentRecord { node: node.clone(), epoch }) {
                return Err(Shut::Spent(id).into());
            }
            let mut draft = Draft::default();
            self.keep_to(&mut draft, node, networks.as_deref(), context);
            return Ok(draft.finish_or_step(want));
        }
        if token.record.left == 0 {
            return Err(Shut::Spent(id).into());
        }
        if token.record.node.is_none() && (joiner.connected || self.knows(node)) {
            return Err(Shut::Known(node.clone()).into());
        }
        let mut draft = Draft::default();
        let record = TokenRecord { left: token.record.left - 1, ..token.record.clone() };
        draft.put(&RecordKey::Token(id), &record, Some(token.revision));
        let record = SpentRecord { node: node.clone(), epoch };
        draft.put(&RecordKey::Spent(id, joiner.key.clone()), &record, None);
        let record =
            IdentityRecord { epoch, networks: networks.clone(), standing: Standing::Member, since: now };
        draft.put(&RecordKey::Identity(node.clone()), &record, revision_of(identity));
        self.keep_to(&mut draft, node, networks.as_deref(), context);
        Ok(draft.finish_or_step(want))
    }

    /// Has a node's peers forget it in all other networks than these: it may have leases from before.
    fn keep_to(
        &self,
        draft: &mut Draft,
        node: &NodeId,
        networks: Option<&[NetworkId]>,
        context: &Context<'_>,
    ) {
        let Some(networks) = networks else { return };
        for (id, entry) in self.networks.iter().filter(|(id, _)| !networks.contains(id)) {
            let is_active = entry.leases.get(node).is_some_and(|lease| lease.record.held_since.is_none());
            if is_active && draft.len() < STEP {
                self.hold(draft, &LeaseName { network: id.clone(), node: node.clone() }, context);
            }
        }
    }

    /// A node has come with a certificate of a higher epoch than was ever given here: it was issued by hand.
    pub(super) fn see(&self, node: &NodeId, epoch: u32, context: &Context<'_>) -> Decision {
        let mut draft = Draft::default();
        if epoch > self.identity_epoch(node) {
            self.let_in(&mut draft, node, epoch, context);
        }
        draft.finish(Want::Nothing)
    }

    /// Whether a name is some node's: of one that has joined, has a lease, or is expected.
    fn knows(&self, node: &NodeId) -> bool {
        let identity = self.members.identities.get(node);
        identity.is_some_and(|identity| identity.record.standing != Standing::Deleted)
            || self
                .networks
                .values()
                .any(|entry| entry.leases.contains_key(node) || entry.reservations.contains_key(node))
    }

    /// Whether a node may have a lease in a network, with a certificate of this epoch.
    pub(super) fn check_certificate(&self, name: &LeaseName, epoch: u32) -> Result<(), Refusal> {
        let Some(identity) = self.members.identities.get(&name.node) else { return Ok(()) };
        if epoch < identity.record.epoch {
            return Err(Shut::Revoked(name.node.clone()).into());
        }
        check_network(name, &identity.record)
    }

    /// Whether a node may have a lease in a network: whoever asks for it has a stream open.
    pub(super) fn check_standing(&self, name: &LeaseName) -> Result<(), Refusal> {
        let Some(identity) = self.members.identities.get(&name.node) else { return Ok(()) };
        if identity.record.standing != Standing::Member {
            return Err(Shut::Revoked(name.node.clone()).into());
        }
        check_network(name, &identity.record)
    }

    /// A node whose certificate is good is a member: one that was shut out may have been issued by hand, and with a
    /// higher epoch than was ever given here. The next revocation is above that.
    pub(super) fn let_in(&self, draft: &mut Draft, node: &NodeId, epoch: u32, context: &Context<'_>) {
        let key = RecordKey::Identity(node.clone());
        let identity = self.members.identities.get(node);
        let before = identity.map(|identity| &identity.record);
        let is_member = before.is_none_or(|record| record.standing == Standing::Member);
        if is_member && epoch <= before.map_or(0, |record| record.epoch) {
            return draft.guard(&key, revision_of(identity));
        }
        let networks = before.and_then(|record| record.networks.clone());
        let record =
            IdentityRecord { epoch, networks, standing: Standing::Member, since: context.now.into() };
        draft.put(&key, &record, revision_of(identity));
    }
}

fn check_network(name: &LeaseName, identity: &IdentityRecord) -> Result<(), Refusal> {
    match &identity.networks {
        Some(networks) if !networks.contains(&name.network) => {
            Err(Shut::Network { node: name.node.clone(), networks: networks.clone() }.into())
        }
        _ => Ok(()),
    }
}

impl Members {
    /// Forgets tokens whose time has passed, and who has joined with those that are gone.
    pub(super) fn forget(&self, draft: &mut Draft, now: Stamp, most: usize) {
        for (id, token) in self.tokens.iter().filter(|(_, token)| token.record.expires <= now) {
            if draft.len() < most {
                draft.delete(&RecordKey::Token(*id), token.revision);
            }
        }
        for ((id, key), spent) in &self.spent {
            let lives = self.tokens.get(id).is_some_and(|token| token.record.expires > now);
            if !lives && draft.len() < most {
                draft.delete(&RecordKey::Spent(*id, key.clone()), spent.revision);
            }
        }
    }
}

#[cfg(test)]
mod tests;
