//! Reservations: subnets bound to a node, with or without a lease.

use ipnet::IpNet;
use loden_proto::model::{LeaseName, Subnets};
use loden_proto::names::NodeId;

use super::draft::Draft;
use super::subnets::check_slots;
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::{NetworkLedger, StoredLease};
use crate::ledger::record::{Made, ReservationRecord, SlotRecord, Stamp, Stored};
use crate::ledger::refusal::{Named, Refusal};

impl Ledger {
    /// Binds slots to a node. A lease of the node on other slots stays until its next acquire.
    pub(super) fn create_reservation(
        &self,
        name: &LeaseName,
        subnets: &Subnets,
        request_id: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let content = ("reservation", name, subnets);
        if let Some(want) = self.answered(request_id, &content, context)? {
            return Ok(Draft::default().finish(want));
        }
        let entry = self.open_network(&name.network)?;
        check_slots(entry, subnets, "reservation.subnets")?;
        if entry.reservations.contains_key(&name.node) {
            return Err(Refusal::Exists(Named::Reservation(name.clone())));
        }
        let now = Stamp::from(context.now);
        let mut draft = Draft::default();
        for (index, slot) in subnets.iter().enumerate() {
            let field = format!("reservation.subnets[{index}]");
            if let Some(claim) = entry.slots.claim(slot) {
                check_unused(entry, slot, &claim.record, &name.node, now, field)?;
            }
            draft.claim(entry, slot, |record| record.reserved = Some(name.node.clone()));
        }
        let record =
            ReservationRecord { subnets: *subnets, created: now, incarnation: self.present_incarnation() };
        draft.put(&RecordKey::Reservation(name.clone()), &record, None);
        self.remember(&mut draft, request_id, &content, Made::Reservation(name.clone()), context);
        draft.guard(&RecordKey::Network(name.network.clone()), Some(entry.revision()));
        Ok(draft.finish(Want::Reservation(name.clone())))
    }

    /// Unbinds a node's slots. A lease on them stays, and from now on expires.
    pub(super) fn delete_reservation(
        &self,
        name: &LeaseName,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let missing = || Refusal::NotFound(Named::Reservation(name.clone()));
        let entry = self.networks.get(&name.network).ok_or_else(missing)?;
        let reservation = entry.reservations.get(&name.node).ok_or_else(missing)?;
        let mut draft = Draft::default();
        unbind(&mut draft, entry, &name.node, reservation, context);
        if let Some(lease) = entry.leases.get(&name.node) {
            expires_from_now_on(&mut draft, entry, &name.node, lease, context);
        }
        Ok(draft.finish(Want::Nothing))
    }
}

/// Takes a reservation away; a lease of its node is left as it is.
pub(super) fn unbind(
    draft: &mut Draft,
    entry: &NetworkLedger,
    node: &NodeId,
    reservation: &Stored<ReservationRecord>,
    context: &Context<'_>,
) {
    let now = Stamp::from(context.now);
    draft.delete(&RecordKey::Reservation(entry.name(node)), reservation.revision);
    for slot in reservation.record.subnets.iter() {
        draft.claim(entry, slot, |record| {
            record.reserved = None;
            record.cooling = record.cooling.take().filter(|cooling| cooling.until > now);
        });
    }
}

/// A lease that was reserved lives one lifetime from now on, unless it has expired already.
pub(super) fn expires_from_now_on(
    draft: &mut Draft,
    entry: &NetworkLedger,
    node: &NodeId,
    lease: &StoredLease,
    context: &Context<'_>,
) {
    if lease.record.held_since.is_some() {
        return;
    }
    draft.guard(&RecordKey::Lease(entry.name(node)), Some(lease.revision));
    draft.live_on(entry, node, context);
}

/// A slot may be reserved for a node when nobody else has or had it.
fn check_unused(
    entry: &NetworkLedger,
    slot: IpNet,
    claim: &SlotRecord,
    node: &NodeId,
    now: Stamp,
    field: String,
) -> Result<(), Refusal> {
    if let Some(other) = claim.reserved.as_ref() {
        let owner = Named::Reservation(entry.name(other));
        return Err(Refusal::SlotInUse { field, subnet: slot, owner, held: true });
    }
    if let Some(other) = claim.lease.as_ref().filter(|other| *other != node) {
        let held = entry.leases.get(other).is_some_and(|lease| lease.record.held_since.is_some());
        let owner = Named::Lease(entry.name(other));
        return Err(Refusal::SlotInUse { field, subnet: slot, owner, held });
    }
    let cooling = claim.cooling.as_ref().filter(|cooling| cooling.until > now && cooling.node != *node);
    if let Some(cooling) = cooling {
        return Err(Refusal::CoolingDown {
            field,
            value: slot.to_string(),
            last: Named::Lease(entry.name(&cooling.node)),
            remaining: cooling.until.since(now),
        });
    }
    Ok(())
}
