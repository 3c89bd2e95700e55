//! A decision in the making: each record at most once, each change with its guard.

use std::collections::BTreeMap;

use ipnet::IpNet;
use loden_proto::names::NodeId;
use serde::Serialize;

use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::{NetworkLedger, StoredLease};
use crate::ledger::record::{Cooling, ExpiryRecord, SlotRecord, Stamp, Stored, encode};
use crate::store::{Change, Guard, Key, Revision};

/// Most records that one step of several touches.
pub(super) const STEP: usize = 100;

#[derive(Default)]
pub(super) struct Draft {
    changes: BTreeMap<Key, Change>,
    guards: BTreeMap<Key, Guard>,
    /// Claims that were changed: the next change goes on from there.
    claims: BTreeMap<Key, SlotRecord>,
}

impl Draft {
    /// The record must be as it is now: of this revision, or absent.
    pub(super) fn guard(&mut self, key: &RecordKey, now: Option<Revision>) {
        self.guard_key(key.key(), now);
    }

    /// Puts a record that is as it is now.
    pub(super) fn put(&mut self, key: &RecordKey, record: &impl Serialize, now: Option<Revision>) {
        let key = key.key();
        self.guard_key(key.clone(), now);
        self.put_key(key, record);
    }

    /// Puts a record, whatever it is now: something else that is guarded decides over it.
    pub(super) fn put_over(&mut self, key: &RecordKey, record: &impl Serialize) {
        self.put_key(key.key(), record);
    }

    /// Deletes a record that is as it is now.
    pub(super) fn delete(&mut self, key: &RecordKey, now: Revision) {
        let key = key.key();
        self.guard_key(key.clone(), Some(now));
        self.delete_key(key);
    }

    /// Deletes a record, whatever it is now: something else that is guarded decides over it.
    pub(super) fn delete_over(&mut self, key: &RecordKey) {
        self.delete_key(key.key());
    }

    fn guard_key(&mut self, key: Key, now: Option<Revision>) {
        let guard = match now {
            Some(revision) => Guard::Unchanged { key: key.clone(), revision },
            None => Guard::Absent(key.clone()),
        };
        self.guards.insert(key, guard);
    }

    fn put_key(&mut self, key: Key, record: &impl Serialize) {
        self.changes.insert(key.clone(), Change::Put { key, value: encode(record) });
    }

    fn delete_key(&mut self, key: Key) {
        self.changes.insert(key.clone(), Change::Delete { key });
    }

    /// Changes the claim to a slot.
    pub(super) fn claim(&mut self, entry: &NetworkLedger, slot: IpNet, change: impl FnOnce(&mut SlotRecord)) {
        let key = RecordKey::Slot(entry.network.id.clone(), slot).key();
        let claim = entry.slots.claim(slot);
        let begun = self.claims.remove(&key).or_else(|| Some(claim?.record.clone()));
        let mut record = begun.unwrap_or_default();
        change(&mut record);
        let now = claim.map(|claim| claim.revision);
        self.guard_key(key.clone(), now);
        if now.is_some() && record == SlotRecord::default() {
            self.delete_key(key.clone());
        } else {
            self.put_key(key.clone(), &record);
        }
        self.claims.insert(key, record);
    }

    /// A node gives up a slot: it cools down until a time.
    pub(super) fn vacate(&mut self, entry: &NetworkLedger, slot: IpNet, node: &NodeId, until: Stamp) {
        self.claim(entry, slot, |record| {
            record.lease = None;
            record.cooling = Some(Cooling { until, node: node.clone() });
        });
    }

    /// Ends a lease, except for the slots in `kept`, which the caller claims.
    pub(super) fn end_lease(
        &mut self,
        entry: &NetworkLedger,
        node: &NodeId,
        lease: &StoredLease,
        until: Stamp,
        kept: impl Fn(IpNet) -> bool,
    ) {
        self.delete(&RecordKey::Lease(entry.name(node)), lease.revision);
        self.delete_expiry(entry, node, lease);
        for slot in lease.record.subnets.iter().filter(|slot| !kept(*slot)) {
            self.vacate(entry, slot, node, until);
        }
    }

    /// A lease that is guarded lives one lifetime from now on.
    pub(super) fn live_on(&mut self, entry: &NetworkLedger, node: &NodeId, context: &Context<'_>) {
        let ttl = entry.lease_ttl(context.defaults.lease_ttl);
        let expires = Stamp::from(context.now).plus(ttl.saturating_add(ttl / 4));
        self.put_over(&RecordKey::Expiry(entry.name(node)), &ExpiryRecord { expires });
    }

    /// Deletes a lease's expiry; the lease is guarded.
    pub(super) fn delete_expiry(&mut self, entry: &NetworkLedger, node: &NodeId, lease: &StoredLease) {
        if lease.expiry.is_some() {
            self.delete_over(&RecordKey::Expiry(entry.name(node)));
        }
    }

    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// The decision; without changes there is nothing to guard.
    pub(super) fn finish(self, want: Want) -> Decision {
        let guards = if self.len() == 0 { Vec::new() } else { self.guards.into_values().collect() };
        Decision { changes: self.changes.into_values().collect(), guards, more: false, want }
    }

    /// The decision, or, when that touches as many records as a step may, that of one step of several.
    pub(super) fn finish_or_step(self, want: Want) -> Decision {
        if self.len() >= STEP { self.step(want) } else { self.finish(want) }
    }

    /// The decision of one step of several.
    pub(super) fn step(self, want: Want) -> Decision {
        Decision { more: true, ..self.finish(want) }
    }
}

/// The revision of what is stored, if it is.
pub(super) fn revision_of<T>(stored: Option<&Stored<T>>) -> Option<Revision> {
    stored.map(|stored| stored.revision)
}
