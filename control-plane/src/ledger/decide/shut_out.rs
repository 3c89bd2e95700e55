//! Shutting a node out: its certificates, its tokens, its leases.

use loden_proto::model::{LeaseName, TokenId};
use loden_proto::names::NodeId;

use super::draft::{Draft, STEP, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Farewell, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::record::{IdentityRecord, Stamp, Standing};

impl Ledger {
    /// Shuts a node out: at once its certificates, then, in as many steps as that takes, the rest. Repeating it
    /// changes nothing.
    pub(super) fn shut_out(
        &self,
        node: &NodeId,
        epoch: u32,
        farewell: Farewell,
        context: &Context<'_>,
    ) -> Decision {
        let mut draft = Draft::default();
        let identity = self.members.identities.get(node);
        let standing = match farewell {
            Farewell::Hold => Standing::Revoked,
            Farewell::Release => Standing::Deleted,
        };
        let now = Stamp::from(context.now);
        let is_done = |record: &IdentityRecord| record.epoch >= epoch && record.standing == standing;
        if !identity.is_some_and(|identity| is_done(&identity.record)) {
            let epoch = identity.map_or(epoch, |identity| identity.record.epoch.max(epoch));
            let networks = identity.and_then(|identity| identity.record.networks.clone());
            let record = IdentityRecord { epoch, networks, standing, since: now };
            draft.put(&RecordKey::Identity(node.clone()), &record, revision_of(identity));
        }
        let has_joined_with = |id: &TokenId| {
            let spent = self.members.spent.range((*id, String::new())..).take_while(|((of, _), _)| of == id);
            spent.into_iter().any(|(_, spent)| spent.record.node == *node)
        };
        // Whoever has the host may have those that it has joined with as well.
        let tokens = self.members.tokens.iter();
        for (id, token) in
            tokens.filter(|(id, token)| token.record.node.as_ref() == Some(node) || has_joined_with(id))
        {
            if draft.len() < STEP {
                draft.delete(&RecordKey::Token(*id), token.revision);
            }
        }
        let until = now.plus(context.defaults.cooldown);
        for (id, entry) in &self.networks {
            let Some(lease) = entry.leases.get(node) else { continue };
            if draft.len() >= STEP {
                break;
            }
            match farewell {
                Farewell::Hold if lease.record.held_since.is_none() => {
                    let name = LeaseName { network: id.clone(), node: node.clone() };
                    self.hold(&mut draft, &name, context);
                }
                Farewell::Hold => {}
                Farewell::Release => draft.end_lease(entry, node, lease, until, |_| false),
            }
        }
        let want = Want::Member(node.clone());
        draft.finish_or_step(want)
    }
}
