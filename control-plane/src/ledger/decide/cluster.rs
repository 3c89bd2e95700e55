//! The store's lives, and tidying up.

use std::time::SystemTime;

use super::draft::{Draft, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::record::{ClusterRecord, Incarnation, Stamp};

/// Most earlier lives that are kept; a record stays well below the store's limit.
const MOST_PREDECESSORS: usize = 256;
/// Most records that one step of tidying touches.
const STEP: usize = 100;

impl Ledger {
    /// Begins another life of the store. Beginning the current one again changes nothing.
    pub(super) fn begin_incarnation(
        &self,
        id: u128,
        predecessor: Option<u128>,
        adopt_until: Option<SystemTime>,
    ) -> Decision {
        let current = self.cluster.as_ref().map(|cluster| &cluster.record);
        if current.is_some_and(|current| current.incarnation.0 == id) {
            return Draft::default().finish(Want::Nothing);
        }
        let mut predecessors = current.map(|current| current.predecessors.clone()).unwrap_or_default();
        let ended = current.map(|current| current.incarnation);
        for life in predecessor.map(Incarnation).into_iter().chain(ended) {
            if life.0 != id && !predecessors.contains(&life) {
                predecessors.push(life);
            }
        }
        let forgotten = predecessors.len().saturating_sub(MOST_PREDECESSORS);
        predecessors.drain(..forgotten);
        let record = ClusterRecord {
            incarnation: Incarnation(id),
            predecessors,
            adopt_until: adopt_until.map(Into::into),
        };
        let mut draft = Draft::default();
        draft.put(&RecordKey::Cluster, &record, revision_of(self.cluster.as_ref()));
        draft.finish(Want::Nothing)
    }

    /// Ends the collecting of leases: those not confirmed are peers again.
    pub(super) fn end_adoption(&self) -> Decision {
        let mut draft = Draft::default();
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.record.adopt_until.is_some()) {
            let record = ClusterRecord { adopt_until: None, ..cluster.record.clone() };
            draft.put(&RecordKey::Cluster, &record, Some(cluster.revision));
        }
        draft.finish(Want::Nothing)
    }

    /// Forgets what has cooled down and old requests, and goes on with deletions that a stop interrupted.
    pub(super) fn tidy(&self, context: &Context<'_>) -> Decision {
        if let Some(entry) = self.networks.values().find(|entry| entry.deleting) {
            let step = self.delete_step(entry, context);
            return Decision { more: true, want: Want::Nothing, ..step };
        }
        let now = Stamp::from(context.now);
        let mut draft = Draft::default();
        let slots = self.networks.iter().flat_map(|(id, entry)| {
            let cooled = entry.slots.cooled(now);
            cooled.filter_map(move |slot| {
                Some((RecordKey::Slot(id.clone(), slot), entry.slots.claim(slot)?.revision))
            })
        });
        let vnis = self
            .vnis
            .cooled(now)
            .filter_map(|vni| Some((RecordKey::Vni(vni), self.vnis.claim(vni)?.revision)));
        for (key, revision) in slots.chain(vnis).take(STEP) {
            draft.delete(&key, revision);
        }
        let old = self.request_ends.iter().take_while(|(until, _)| *until <= now).map(|(_, key)| key);
        for key in old.take(STEP - draft.len()) {
            if let (Some(name), Some(request)) = (RecordKey::parse(key), self.requests.get(key)) {
                draft.delete(&name, request.revision);
            }
        }
        if draft.len() < STEP { draft.finish(Want::Nothing) } else { draft.step(Want::Nothing) }
    }
}
