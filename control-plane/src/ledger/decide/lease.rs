//! Renew, update, release and expire: what happens to a lease that exists.

use loden_proto::model::{Endpoint, Epoch, LeaseName};

use super::draft::Draft;
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
