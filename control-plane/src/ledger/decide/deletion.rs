//! The deletion of a network: marked first, then done in steps.

use std::collections::BTreeSet;

use loden_proto::names::{NetworkId, NodeId};

use super::draft::{Draft, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::NetworkLedger;
use crate::ledger::record::{CatalogRecord, Deletion, NetworkRecord, SlotRecord, Stamp, VniRecord};
use crate::ledger::refusal::Refusal;

/// Most nodes whose records one step of a deletion touches: at most seven of each.
const STEP_NODES: usize = 14;
/// Most records that one step of a deletion touches, those of the network itself aside.
const STEP: usize = 100;

impl Ledger {
    /// Deletes a network: marks it first, so that nothing new gets in, then empties it in steps. What
    /// another replica put in before the mark is seen by the next step.
    pub(super) fn delete_network(
        &self,
        id: &NetworkId,
        force: bool,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let entry = self.known_network(id)?;
        let (leases, reservations) = (entry.leases.len(), entry.reservations.len());
        match entry.deleting {
            Some(Deletion::Forced) => Ok(self.delete_step(entry, context)),
            _ if force => Ok(mark(entry, Some(Deletion::Forced))),
            Some(Deletion::IfEmpty) => Ok(self.delete_step(entry, context)),
            None if leases + reservations > 0 => {
                Err(Refusal::NetworkInUse { network: id.clone(), leases, reservations })
            }
            None => Ok(mark(entry, Some(Deletion::IfEmpty))),
        }
    }

    /// One step of a deletion that was marked; the last one takes the network itself.
    pub(super) fn delete_step(&self, entry: &NetworkLedger, context: &Context<'_>) -> Decision {
        let is_used = !entry.leases.is_empty() || !entry.reservations.is_empty();
        if is_used && entry.deleting == Some(Deletion::IfEmpty) {
            return mark(entry, None);
        }
        let id = &entry.network.id;
        let mut draft = Draft::default();
        let nodes: BTreeSet<_> = entry.leases.keys().chain(entry.reservations.keys()).collect();
        let is_last = nodes.len() <= STEP_NODES;
        for node in nodes.into_iter().take(STEP_NODES) {
            delete_node(&mut draft, entry, node);
        }
        let unclaimed = |claim: &SlotRecord| claim.lease.is_none() && claim.reserved.is_none();
        for (slot, claim) in entry.slots.claims().filter(|(_, claim)| unclaimed(&claim.record)) {
            if draft.len() < STEP {
                draft.delete(&RecordKey::Slot(id.clone(), slot), claim.revision);
            }
        }
        let network = RecordKey::Network(id.clone());
        if !is_last || draft.len() >= STEP {
            draft.guard(&network, Some(entry.revision()));
            return draft.step(Want::Nothing);
        }
        draft.delete(&network, entry.revision());
        let until = Stamp::from(context.now).plus(context.defaults.cooldown);
        let claim = VniRecord { network: id.clone(), cooling_until: Some(until) };
        let vni = entry.network.vni;
        draft.put(&RecordKey::Vni(vni), &claim, revision_of(self.vnis.claim(vni)));
        draft.put(&RecordKey::Catalog, &CatalogRecord {}, self.catalog);
        draft.finish(Want::Nothing)
    }
}

/// Deletes everything that a node has in a network; what it claims goes in the same step.
fn delete_node(draft: &mut Draft, entry: &NetworkLedger, node: &NodeId) {
    let mut slots = BTreeSet::new();
    if let Some(lease) = entry.leases.get(node) {
        draft.delete(&RecordKey::Lease(entry.name(node)), lease.revision);
        draft.delete_expiry(entry, node, lease);
        slots.extend(lease.record.subnets.iter());
    }
    if let Some(reservation) = entry.reservations.get(node) {
        draft.delete(&RecordKey::Reservation(entry.name(node)), reservation.revision);
        slots.extend(reservation.record.subnets.iter());
    }
    for slot in slots {
        if let Some(claim) = entry.slots.claim(slot) {
            draft.delete(&RecordKey::Slot(entry.network.id.clone(), slot), claim.revision);
        }
    }
}

/// Marks a network, or takes the mark off it.
fn mark(entry: &NetworkLedger, deletion: Option<Deletion>) -> Decision {
    let mut draft = Draft::default();
    let key = RecordKey::Network(entry.network.id.clone());
    draft.put(&key, &NetworkRecord::of(&entry.network, deletion), Some(entry.revision()));
    draft.step(Want::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::ledger::testing::{Rig, acquire, acquire_at, endpoint, network, reserve};
    use crate::ledger::{Command, Refusal};

    fn delete(force: bool) -> Command {
        Command::DeleteNetwork { id: "blue".parse().unwrap(), force }
    }

    #[test]
    fn a_large_network_is_marked_first_and_deleted_in_steps() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/16"]));
        for number in 0..120 {
            rig.must(acquire_at("blue", &format!("n{number}"), 1, endpoint(number)));
        }
        rig.must(reserve("blue", "z", "10.1.200.0/24"));
        rig.refused(delete(false));
        for _ in 0..2 {
            let step = rig.decide(&delete(true)).unwrap();
            assert!(step.more && step.changes.len() <= crate::store::MAX_OPERATIONS);
            rig.commit(step.changes, step.guards).unwrap();
            rig.catch_up();
            rig.check();
        }
        rig.check();
        for command in
            [acquire("blue", "y", 1), network("blue", &["10.9.0.0/16"]), reserve("blue", "y", "10.1.9.0/24")]
        {
            assert_eq!(rig.refused(command), Refusal::Deleting("blue".parse().unwrap()));
        }
        rig.must(Command::Tidy);
        assert_eq!(rig.ledger.networks().count(), 0);
        let records = rig.loaded().records;
        let left: Vec<_> = records.iter().map(|record| record.key.as_str()).collect();
        assert_eq!(left, ["cluster", "networks", "vni/1"]);
        rig.check();
    }

    #[test]
    fn an_acquire_and_a_deletion_cannot_both_win() {
        for force in [false, true] {
            let mut rig = Rig::new();
            rig.must(network("blue", &["10.1.0.0/22"]));
            let acquired = rig.decide(&acquire("blue", "a", 1)).unwrap();
            let marked = rig.decide(&delete(force)).unwrap();
            rig.commit(acquired.changes, acquired.guards).unwrap();
            rig.commit(marked.changes, marked.guards).unwrap();
            rig.catch_up();
            let deleted = rig.run(&delete(force));
            if force {
                deleted.unwrap();
                assert_eq!(rig.ledger.networks().count(), 0);
            } else {
                assert!(matches!(deleted, Err(Refusal::NetworkInUse { leases: 1, .. })));
                rig.must(acquire("blue", "b", 1));
            }
            rig.check();

            let mut rig = Rig::new();
            rig.must(network("blue", &["10.1.0.0/22"]));
            let late = rig.decide(&acquire("blue", "a", 1)).unwrap();
            let marked = rig.decide(&delete(force)).unwrap();
            rig.commit(marked.changes, marked.guards).unwrap();
            rig.commit(late.changes, late.guards).expect_err("the network is marked");
            rig.catch_up();
            rig.must(delete(force));
            rig.check();
        }
    }

    #[test]
    fn a_deletion_that_stopped_is_finished_or_given_up() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        let late = rig.decide(&acquire("blue", "a", 1)).unwrap();
        let marked = rig.decide(&delete(false)).unwrap();
        rig.commit(late.changes, late.guards).unwrap();
        rig.commit(marked.changes, marked.guards).unwrap();
        rig.catch_up();
        rig.must(Command::Tidy);
        rig.must(acquire("blue", "b", 1));
        let marked = rig.decide(&delete(true)).unwrap();
        rig.commit(marked.changes, marked.guards).unwrap();
        rig.catch_up();
        rig.refused(acquire("blue", "c", 1));
        rig.must(Command::Tidy);
        assert_eq!(rig.ledger.networks().count(), 0);
        rig.check();
    }
}
