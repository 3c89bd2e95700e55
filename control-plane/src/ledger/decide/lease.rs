//! Renew, update, release and expire: what happens to a lease that exists.

use loden_proto::model::{Endpoint, Epoch, LeaseName};

use super::draft::{Draft, revision_of};
use super::endpoint;
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::StoredLease;
use crate::ledger::record::{LeaseRecord, Stamp};
use crate::ledger::refusal::Refusal;

impl Ledger {
    /// Extends a lease and, if there is one, publishes another endpoint. A held lease becomes active
    /// again: its slots are still the node's.
    pub(super) fn refresh_lease(
        &self,
        name: &LeaseName,
        epoch: Option<Epoch>,
        endpoint: Option<&Endpoint>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let (entry, lease) = self.known_lease(name)?;
        check_epoch(name, epoch, lease)?;
        let record = LeaseRecord {
            endpoint: endpoint.unwrap_or(&lease.record.endpoint).clone(),
            held_since: None,
            ..lease.record.clone()
        };
        let mut draft = Draft::default();
        let key = RecordKey::Lease(name.clone());
        draft.guard(&key, Some(lease.revision));
        if record != lease.record {
            self.open_network(&name.network)?;
            self.check_standing(name)?;
            if self.is_adopting() && !self.is_confirmed(&lease.record) {
                return Err(self.adopting("the lease has to be acquired again with a claim", context));
            }
            endpoint::check(&record.endpoint, &entry.network, context.defaults)?;
            self.check_overlap(&record.endpoint, name)?;
            if let Some(clash) = self.clashes(entry, &record.endpoint, name).into_iter().next() {
                return Err(clash.into());
            }
            draft.put(&key, &record, Some(lease.revision));
            draft.guard(&RecordKey::Network(name.network.clone()), Some(entry.revision()));
        }
        self.extend(&mut draft, entry, &name.node, &record.subnets, context);
        Ok(draft.finish(Want::Lease(name.clone())))
    }

    /// Gives a lease's slots back.
    pub(super) fn release_lease(
        &self,
        name: &LeaseName,
        epoch: Option<Epoch>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let (entry, lease) = self.known_lease(name)?;
        check_epoch(name, epoch, lease)?;
        let until = Stamp::from(context.now).plus(context.defaults.cooldown);
        let mut draft = Draft::default();
        draft.end_lease(entry, &name.node, lease, until, |_| false);
        Ok(draft.finish(Want::Nothing))
    }

    /// Takes an expired lease from the peers; its slots are kept for its node.
    pub(super) fn expire_lease(
        &self,
        name: &LeaseName,
        revision: u64,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let (entry, lease) = self.known_lease(name)?;
        let not_due = |reason| Refusal::NotDue { lease: name.clone(), reason };
        if lease.record.held_since.is_some() {
            return Err(not_due("it has expired already"));
        }
        if lease.last_change().0 != revision {
            return Err(not_due("it has changed since"));
        }
        if self.is_adopting() {
            return Err(not_due("leases are being collected after the store was lost"));
        }
        if entry.binds(&name.node, &lease.record.subnets) {
            return Err(not_due("its subnets are reserved"));
        }
        let now = Stamp::from(context.now);
        let Some(expiry) = lease.expiry.as_ref().filter(|expiry| expiry.record.expires <= now) else {
            return Err(not_due("its time has not passed"));
        };
        let mut draft = Draft::default();
        self.hold(&mut draft, name, context);
        draft.guard(&RecordKey::Expiry(name.clone()), Some(expiry.revision));
        let reservation = entry.reservations.get(&name.node);
        draft.guard(&RecordKey::Reservation(name.clone()), revision_of(reservation));
        Ok(draft.finish(Want::Nothing))
    }
}

fn check_epoch(name: &LeaseName, sent: Option<Epoch>, lease: &StoredLease) -> Result<(), Refusal> {
    let current = lease.record.epoch;
    match sent.filter(|sent| *sent != current) {
        Some(sent) => Err(Refusal::StaleEpoch { lease: name.clone(), sent, current }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loden_proto::model::Epoch;

    use crate::ledger::testing::{Rig, acquire, name, network, renew, reserve, with_vtep};
    use crate::ledger::{Command, LeaseState, PeerChange};

    const TTL: u64 = 24 * 3600;

    fn rig() -> Rig {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire("blue", "a", 1));
        rig
    }

    #[test]
    fn a_renewal_never_promises_beyond_what_is_on_disk() {
        let mut rig = rig();
        for step in [TTL / 3, 1, TTL / 4, TTL / 3, TTL, 5] {
            rig.pass(step);
            rig.must(renew("blue", "a"));
            let loaded = crate::ledger::Ledger::load(&rig.loaded()).unwrap();
            let expires = loaded.lease(&name("blue", "a")).unwrap().expires.unwrap();
            assert!(expires >= rig.now + Duration::from_secs(TTL));
        }
    }

    #[test]
    fn a_renewal_touches_no_peer_and_mostly_writes_nothing() {
        let mut rig = rig();
        rig.pass(TTL / 4);
        assert!(rig.decide(&renew("blue", "a")).unwrap().changes.is_empty());
        rig.pass(1);
        let decision = rig.decide(&renew("blue", "a")).unwrap();
        rig.commit(decision.changes, decision.guards).unwrap();
        let applied = rig.catch_up();
        assert!(applied.len() == 1 && applied[0].peers.is_empty());
    }

    #[test]
    fn a_renewal_or_update_makes_a_held_lease_active_again() {
        let mut rig = rig();
        rig.expire("blue", "a");
        assert_eq!(rig.ledger.lease_expiries().count(), 0);
        rig.must(renew("blue", "a"));
        assert_eq!(rig.lease("blue", "a").state, LeaseState::Active);
        rig.expire("blue", "a");
        let epoch = rig.lease("blue", "a").epoch;
        rig.must(Command::UpdateEndpoint { name: name("blue", "a"), epoch, endpoint: with_vtep(9, 1) });
        assert_eq!(rig.lease("blue", "a").state, LeaseState::Active);
        assert_eq!(rig.ledger.lease_expiries().count(), 1);
        rig.check();
    }

    #[test]
    fn an_expired_lease_leaves_the_peers_and_a_renewal_before_it_wins() {
        let mut rig = rig();
        rig.pass(2 * TTL);
        let (name, _, revision) = rig.ledger.lease_expiries().next().unwrap();
        let expire = Command::ExpireLease { name: name.clone(), revision };
        let late = rig.decide(&expire).unwrap();
        rig.must(renew("blue", "a"));
        rig.commit(late.changes, late.guards).expect_err("the lease was renewed meanwhile");
        rig.refused(expire);
        let lease = rig.lease("blue", "a");
        rig.now = lease.expires.unwrap();
        let decision =
            rig.decide(&Command::ExpireLease { name: lease.name, revision: lease.revision }).unwrap();
        rig.commit(decision.changes, decision.guards).unwrap();
        let applied = rig.catch_up();
        assert_eq!(applied[0].peers[0].1, PeerChange::Removed("a".parse().unwrap()));
        rig.check();
    }

    #[test]
    fn an_update_keeps_the_epoch_and_reaches_the_peers() {
        let mut rig = rig();
        let before = rig.lease("blue", "a");
        let update =
            |endpoint| Command::UpdateEndpoint { name: name("blue", "a"), epoch: before.epoch, endpoint };
        rig.must(update(with_vtep(9, 1)));
        let after = rig.lease("blue", "a");
        assert_eq!((after.epoch, after.subnets), (before.epoch, before.subnets));
        assert_eq!(rig.ledger.peers(&"blue".parse().unwrap()).next().unwrap().endpoint, with_vtep(9, 1));
        assert!(rig.must(update(with_vtep(9, 1))).changes.is_empty());
        assert_ne!(after.epoch, Epoch(0));
    }

    #[test]
    fn a_reserved_lease_never_expires_until_the_reservation_goes() {
        let mut rig = rig();
        let slot = rig.subnets("blue", "a");
        rig.must(reserve("blue", "a", &slot));
        assert_eq!(rig.ledger.lease_expiries().count(), 0);
        rig.pass(365 * TTL);
        assert!(rig.must(renew("blue", "a")).changes.is_empty());
        rig.must(Command::DeleteReservation { name: name("blue", "a") });
        let (_, expires, _) = rig.ledger.lease_expiries().next().unwrap();
        assert_eq!(expires, rig.now + Duration::from_secs(TTL + TTL / 4));
        rig.expire("blue", "a");
        rig.check();
    }
}
