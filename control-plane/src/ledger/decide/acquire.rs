//! AcquireLease: a node gets its subnets.

use std::collections::BTreeSet;

use ipnet::IpNet;
use loden_proto::model::{Endpoint, Epoch, InstanceId, LeaseName, Subnets};
use loden_proto::names::NodeId;

use super::draft::{Draft, revision_of};
use super::endpoint;
use super::reservation::{expires_from_now_on, unbind};
use super::subnets::{Asking, Assignment, Losers, check_slots};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::{NetworkLedger, StoredLease};
use crate::ledger::record::{LeaseRecord, Stamp};
use crate::ledger::refusal::Refusal;

/// Who asks for subnets, and for which.
pub(super) struct Acquire<'a> {
    pub(super) name: &'a LeaseName,
    pub(super) instance: InstanceId,
    pub(super) claim: Option<&'a Subnets>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) underlay: &'a [IpNet],
    pub(super) identity_epoch: u32,
}

impl Ledger {
    /// Gives a node its subnets. Repeating it changes nothing.
    ///
    /// A node whose reservation names other subnets than its lease moves to them when a new instance
    /// acquires, or the lease had expired: nothing runs on the old ones then.
    pub(super) fn acquire_lease(
        &self,
        asking: &Acquire<'_>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let Acquire { name, instance, claim, endpoint, underlay, identity_epoch } = *asking;
        let entry = self.open_network(&name.network)?;
        self.check_certificate(name, identity_epoch)?;
        if let Some(claim) = claim {
            check_slots(entry, claim, "claim")?;
        }
        endpoint::check(endpoint, &entry.network, context.defaults)?;
        if let Some(streaming) = context.streaming.instance(name).filter(|streaming| *streaming != instance) {
            return Err(Refusal::AnotherInstance { lease: name.clone(), instance, streaming });
        }
        self.check_overlap(endpoint, name)?;
        endpoint::check_prefixes(underlay, &entry.network, name)?;
        let current = entry.leases.get(&name.node);
        let running = current.map(|lease| &lease.record).filter(|lease| {
            lease.instance == instance && lease.held_since.is_none() && self.is_confirmed(lease)
        });
        let running = running.map(|lease| &lease.subnets);
        if self.is_adopting() && claim.is_none() && running.is_none() {
            return Err(
                self.adopting("a claim to the subnets that the node holds is needed until then", context)
            );
        }
        let overruled = self.overrule(entry, endpoint, name)?;

        let assignment = if let Some(subnets) = running.filter(|_| self.is_adopting()) {
            Assignment { subnets: *subnets, losers: Losers::default() }
        } else {
            let own = current.map(|lease| lease.record.subnets);
            let may_move = current
                .is_none_or(|lease| lease.record.instance != instance || lease.record.held_since.is_some());
            self.assign(entry, &Asking { name, claim, own, may_move }, context)?
        };
        let lease = self.lease_for(current, assignment.subnets, instance, endpoint, underlay, context);
        let mut draft = Draft::default();
        self.settle(&mut draft, entry, name, &assignment, context);
        for other in overruled.iter().filter(|other| {
            !(other.network == name.network && assignment.losers.leases.contains(&other.node))
        }) {
            self.hold(&mut draft, other, context);
        }
        let (key, revision) = (RecordKey::Lease(name.clone()), current.map(|current| current.revision));
        draft.guard(&key, revision);
        if current.is_none_or(|current| current.record != lease) {
            draft.put(&key, &lease, revision);
        }
        self.extend(&mut draft, entry, &name.node, &lease.subnets, context);
        draft.guard(&RecordKey::Network(name.network.clone()), Some(entry.revision()));
        draft.guard(&RecordKey::Cluster, revision_of(self.cluster.as_ref()));
        self.let_in(&mut draft, &name.node, identity_epoch, context);
        Ok(draft.finish(Want::Lease(name.clone())))
    }

    /// Leases that are in the way of an endpoint and lose, because their nodes have not confirmed them
    /// since the store was lost. Any other in the way is a refusal.
    fn overrule(
        &self,
        entry: &NetworkLedger,
        endpoint: &Endpoint,
        name: &LeaseName,
    ) -> Result<BTreeSet<LeaseName>, Refusal> {
        let mut overruled = BTreeSet::new();
        for clash in self.clashes(entry, endpoint, name) {
            let (_, other) = self.known_lease(&clash.owner)?;
            if !self.is_adopting() || self.is_confirmed(&other.record) {
                return Err(clash.into());
            }
            overruled.insert(clash.owner);
        }
        Ok(overruled)
    }

    fn lease_for(
        &self,
        current: Option<&StoredLease>,
        subnets: Subnets,
        instance: InstanceId,
        endpoint: &Endpoint,
        underlay: &[IpNet],
        context: &Context<'_>,
    ) -> LeaseRecord {
        // The revision of this commit is higher than this one, whatever the lease was before it was
        // released: epochs never go back.
        let next = Epoch(self.revision.0 + 1);
        let epoch = match current.map(|lease| &lease.record) {
            Some(record) if record.instance == instance => record.epoch,
            Some(record) => next.max(Epoch(record.epoch.0 + 1)),
            None => next,
        };
        LeaseRecord {
            subnets,
            endpoint: endpoint.clone(),
            epoch,
            instance,
            created: current.map_or_else(|| Stamp::from(context.now), |lease| lease.record.created),
            held_since: None,
            incarnation: self.present_incarnation(),
            underlay: underlay.to_vec(),
        }
    }

    /// Claims the assigned slots, ends the losers' leases and reservations, and lets what is left over cool down.
    fn settle(
        &self,
        draft: &mut Draft,
        entry: &NetworkLedger,
        name: &LeaseName,
        assignment: &Assignment,
        context: &Context<'_>,
    ) {
        let until = Stamp::from(context.now).plus(context.defaults.cooldown);
        let gets = |slot| assignment.subnets.iter().any(|subnet| subnet == slot);
        for node in &assignment.losers.reservations {
            let Some(reservation) = entry.reservations.get(node) else { continue };
            unbind(draft, entry, node, reservation, context);
            let lease = entry.leases.get(node).filter(|_| !assignment.losers.leases.contains(node));
            if let Some(lease) = lease {
                expires_from_now_on(draft, entry, node, lease, context);
            }
        }
        for loser in &assignment.losers.leases {
            if let Some(lease) = entry.leases.get(loser) {
                draft.end_lease(entry, loser, lease, until, gets);
            }
        }
        let own: Vec<_> =
            entry.leases.get(&name.node).iter().flat_map(|lease| lease.record.subnets.iter()).collect();
        for slot in own.iter().filter(|slot| !gets(**slot)) {
            draft.vacate(entry, *slot, &name.node, until);
        }
        for slot in assignment.subnets.iter().filter(|slot| !own.contains(slot)) {
            draft.claim(entry, slot, |record| {
                record.lease = Some(name.node.clone());
                record.cooling = None;
            });
        }
    }

    /// Takes a lease from the peers and keeps it for its node.
    pub(super) fn hold(&self, draft: &mut Draft, name: &LeaseName, context: &Context<'_>) {
        let Ok((entry, lease)) = self.known_lease(name) else { return };
        let record = LeaseRecord { held_since: Some(context.now.into()), ..lease.record.clone() };
        draft.put(&RecordKey::Lease(name.clone()), &record, Some(lease.revision));
        draft.delete_expiry(entry, &name.node, lease);
    }

    /// Extends a lease with these subnets, unless what is on disk covers one more lifetime. The lease is
    /// guarded, or put in the same draft.
    pub(super) fn extend(
        &self,
        draft: &mut Draft,
        entry: &NetworkLedger,
        node: &NodeId,
        subnets: &Subnets,
        context: &Context<'_>,
    ) {
        let ttl = entry.lease_ttl(context.defaults.lease_ttl);
        let needed = Stamp::from(context.now).plus(ttl);
        let covered = entry.leases.get(node).is_some_and(|lease| lease.covers(needed));
        if covered || entry.binds(node, subnets) {
            return;
        }
        draft.live_on(entry, node, context);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loden_proto::model::InstanceId;

    use crate::ledger::LeaseState;
    use crate::ledger::testing::{Rig, acquire, acquire_at, endpoint, name, network, release, with_vtep};

    fn rig() -> Rig {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire("blue", "a", 1));
        rig
    }

    #[test]
    fn repeating_an_acquire_changes_nothing() {
        let mut rig = rig();
        let again = rig.decide(&acquire("blue", "a", 1)).unwrap();
        assert!(again.changes.is_empty() && again.guards.is_empty() && !again.more);
        rig.pass(24 * 3600 / 4);
        assert!(
            rig.decide(&acquire("blue", "a", 1)).unwrap().changes.is_empty(),
            "the expiry on disk covers it"
        );
        rig.pass(1);
        let later = rig.must(acquire("blue", "a", 1));
        assert_eq!(later.changes.len(), 1, "only the expiry is written: {later:?}");
        let promised = rig.lease("blue", "a").expires.unwrap();
        assert_eq!(promised, rig.now + Duration::from_secs(30 * 3600));
    }

    #[test]
    fn another_instance_gets_a_higher_epoch_also_after_a_release() {
        let mut rig = rig();
        let first = rig.lease("blue", "a").epoch;
        rig.must(acquire("blue", "a", 2));
        let second = rig.lease("blue", "a");
        assert!(second.epoch > first && second.instance == InstanceId(2));
        rig.must(release("blue", "a"));
        rig.must(acquire("blue", "a", 1));
        assert!(rig.lease("blue", "a").epoch > second.epoch);
    }

    #[test]
    fn a_held_lease_leaves_its_address_to_others() {
        let mut rig = rig();
        rig.must(acquire_at("blue", "b", 1, with_vtep(7, 1)));
        rig.expire("blue", "b");
        rig.must(acquire_at("blue", "c", 1, with_vtep(7, 1)));
        rig.refused(acquire_at("blue", "b", 1, with_vtep(7, 1)));
        rig.must(acquire_at("blue", "b", 1, with_vtep(8, 1)));
        assert_eq!(rig.lease("blue", "b").state, LeaseState::Active);
        rig.check();
    }

    #[test]
    fn a_node_may_have_one_address_in_several_networks() {
        let mut rig = rig();
        rig.must(network("red", &["10.2.0.0/22"]));
        rig.must(acquire("red", "a", 1));
        rig.must(release("blue", "a"));
        rig.refused(acquire_at("blue", "b", 1, rig.lease("red", "a").endpoint));
        rig.must(release("red", "a"));
        rig.must(acquire_at("blue", "b", 1, endpoint(b'a')));
        assert_eq!(rig.ledger.lease(&name("red", "a")), None);
    }
}
