//! Which slot a node gets in each family.
//!
//! ```text
//!  reservation ─▶ the lease's own ─▶ claimed and free ─▶ given back by itself ─▶ free ─▶ stolen ─▶ Exhausted
//!  (of a new instance, or of none)                                          └─▶ Settling: nothing new
//!  while settling, only what the node holds
//!
//!  while adopting:  claimed, even from a lease or reservation of before ─▶ own ─▶ reservation of now ─▶ Adopting
//! ```

use std::collections::BTreeSet;

use ipnet::IpNet;
use loden_proto::InvalidValue;
use loden_proto::model::{Family, LeaseName, Subnets};
use loden_proto::names::NodeId;

use crate::ledger::Ledger;
use crate::ledger::command::Context;
use crate::ledger::network::NetworkLedger;
use crate::ledger::record::{Cooling, Stamp};
use crate::ledger::refusal::Refusal;

/// What a node gets, and who loses by it.
pub(super) struct Assignment {
    pub(super) subnets: Subnets,
    pub(super) losers: Losers,
}

/// Whose leases end, and whose reservations go.
#[derive(Default)]
pub(super) struct Losers {
    pub(super) leases: BTreeSet<NodeId>,
    pub(super) reservations: BTreeSet<NodeId>,
}

/// Who asks for subnets.
pub(super) struct Asking<'a> {
    pub(super) name: &'a LeaseName,
    pub(super) claim: Option<&'a Subnets>,
    /// What the node has now, held or active.
    pub(super) own: Option<Subnets>,
    /// Nothing runs on what it has: the same instance does not hold it actively.
    pub(super) may_move: bool,
}

impl Asking<'_> {
    /// Whether the node has a lease that it does not follow: its agent has just been started.
    fn starts_with_some(&self, context: &Context<'_>) -> bool {
        self.own.is_some() && context.streaming.instance(self.name).is_none()
    }
}

/// Checks that subnets are slots of the network that can be given out.
pub(super) fn check_slots(entry: &NetworkLedger, subnets: &Subnets, field: &str) -> Result<(), InvalidValue> {
    for (index, subnet) in subnets.iter().enumerate() {
        let rule = match entry.network.slot(subnet) {
            None => format!("is not a subnet of a pool of {}: {}", entry.network.id, pools(entry)),
            Some((pool, 0)) => {
                format!("is the first subnet of the pool {}, which is never given out", pool.cidr())
            }
            Some(_) => continue,
        };
        return Err(InvalidValue::new(subnet, rule).at(format!("{field}[{index}]")));
    }
    Ok(())
}

fn pools(entry: &NetworkLedger) -> String {
    let pools: Vec<_> = entry.network.pools.iter().map(ToString::to_string).collect();
    pools.join(", ")
}

fn of_family(subnets: Option<&Subnets>, family: Family) -> Option<IpNet> {
    subnets?.iter().find(|subnet| Family::of_net(*subnet) == family)
}

impl Ledger {
    /// Chooses a slot in each family of the network: all, or for a new node none.
    pub(super) fn assign(
        &self,
        entry: &NetworkLedger,
        asking: &Asking<'_>,
        context: &Context<'_>,
    ) -> Result<Assignment, Refusal> {
        let mut chosen = Vec::new();
        let mut losers = Losers::default();
        let mut missing = Vec::new();
        for family in entry.network.families() {
            let slot = if self.is_adopting() {
                Some(self.adopt(entry, asking, family, context, &mut losers)?)
            } else {
                self.choose(entry, asking, family, context)?
            };
            match slot {
                Some(slot) => chosen.push(slot),
                None => missing.push(family),
            }
        }
        match steal(entry, asking.name, missing, context, &mut chosen, &mut losers.leases) {
            // Who starts anew goes on with the families that it has; who runs on is told that there is no more.
            Err(Refusal::Exhausted { .. }) if !chosen.is_empty() && asking.starts_with_some(context) => {}
            stolen => stolen?,
        }
        Ok(Assignment { subnets: Subnets::new(chosen)?, losers })
    }

    /// The slot that a node gets without harm to others; `None` when none is free.
    fn choose(
        &self,
        entry: &NetworkLedger,
        asking: &Asking<'_>,
        family: Family,
        context: &Context<'_>,
    ) -> Result<Option<IpNet>, Refusal> {
        let (node, now) = (&asking.name.node, Stamp::from(context.now));
        let reservation = entry.reservations.get(node).map(|stored| &stored.record.subnets);
        let own = of_family(asking.own.as_ref(), family);
        let reserved = of_family(reservation, family).filter(|_| asking.may_move || own.is_none());
        let claimed = of_family(asking.claim, family);
        if let Some(known) = reserved.or(own) {
            // Of an old copy, a running node may hold it, and is only on its way.
            let is_held =
                claimed == Some(known) || (claimed.is_none() && !asking.may_move && own == Some(known));
            return match context.settling.filter(|_| !is_held) {
                Some(retry_after) => Err(Refusal::Settling { retry_after }),
                None => Ok(Some(known)),
            };
        }
        if let Some(knocked) = context.knocked {
            return Err(Refusal::Knocked(knocked));
        }
        let known = claimed.filter(|slot| is_grantable(entry, *slot, node, now));
        if known.is_some() {
            return Ok(known);
        }
        if let Some(retry_after) = context.settling {
            return Err(Refusal::Settling { retry_after });
        }
        Ok(entry.slots.previous(node, family).or_else(|| entry.slots.choose(node, family, now)))
    }

    /// The slot that a node says it holds, while leases are being collected.
    fn adopt(
        &self,
        entry: &NetworkLedger,
        asking: &Asking<'_>,
        family: Family,
        context: &Context<'_>,
        losers: &mut Losers,
    ) -> Result<IpNet, Refusal> {
        let node = &asking.name.node;
        // One that was made since the store was lost is the operator's word of now.
        let present = |node: &NodeId| {
            let stored = entry.reservations.get(node)?;
            (stored.record.incarnation == self.present_incarnation()).then_some(&stored.record.subnets)
        };
        let reservation = present(node);
        let claimed = of_family(asking.claim, family);
        let own = || of_family(asking.own.as_ref(), family);
        let Some(slot) = claimed.or_else(own).or_else(|| of_family(reservation, family)) else {
            return Err(self.adopting(format!("a claim to an {family} subnet is needed until then"), context));
        };
        let Some(claim) = entry.slots.claim(slot).map(|claim| &claim.record) else { return Ok(slot) };
        if let Some(other) = claim.reserved.as_ref().filter(|other| *other != node) {
            if present(other).is_some() {
                return Err(
                    self.adopting(format!("the claimed subnet {slot} is reserved for {other}"), context)
                );
            }
            losers.reservations.insert(other.clone());
        }
        let Some(other) = claim.lease.as_ref().filter(|other| *other != node) else { return Ok(slot) };
        if entry.leases.get(other).is_some_and(|lease| self.is_confirmed(&lease.record)) {
            let reason = format!("the claimed subnet {slot} has been confirmed by {other}");
            return Err(self.adopting(reason, context));
        }
        losers.leases.insert(other.clone());
        Ok(slot)
    }

    /// Refuses whoever has to wait until leases have been collected.
    pub(super) fn adopting(&self, reason: impl Into<String>, context: &Context<'_>) -> Refusal {
        let until = self.cluster.as_ref().and_then(|cluster| cluster.record.adopt_until);
        let now = Stamp::from(context.now);
        Refusal::Adopting { remaining: until.unwrap_or(now).since(now), reason: reason.into() }
    }
}

/// Whether a node may have a slot that it asks for.
fn is_grantable(entry: &NetworkLedger, slot: IpNet, node: &NodeId, now: Stamp) -> bool {
    entry.slots.claim(slot).is_none_or(|claim| {
        let record = &claim.record;
        let free = record.lease.is_none() && record.reserved.is_none();
        let cooled = |cooling: &Cooling| cooling.until <= now || cooling.node == *node;
        free && record.cooling.as_ref().is_none_or(cooled)
    })
}

/// Takes what is missing from the longest-held leases whose nodes do not stream. The slots change hands
/// at once: their peers forgot them when they expired, and there is no other.
fn steal(
    entry: &NetworkLedger,
    name: &LeaseName,
    mut missing: Vec<Family>,
    context: &Context<'_>,
    chosen: &mut Vec<IpNet>,
    losers: &mut BTreeSet<NodeId>,
) -> Result<(), Refusal> {
    for (_, holder) in &entry.held {
        if missing.is_empty() {
            break;
        }
        let Some(lease) = entry.leases.get(holder).filter(|_| *holder != name.node) else { continue };
        let subnets = lease.record.subnets;
        let is_bound = subnets.iter().any(|slot| entry.is_reserved(slot));
        if is_bound || context.streaming.instance(&entry.name(holder)).is_some() {
            continue;
        }
        let stolen = subnets.iter().filter(|slot| missing.contains(&Family::of_net(*slot)));
        let before = chosen.len();
        chosen.extend(stolen);
        if chosen.len() > before {
            losers.insert(holder.clone());
            missing.retain(|family| chosen.iter().all(|slot| Family::of_net(*slot) != *family));
        }
    }
    let Some(family) = missing.first().copied() else { return Ok(()) };
    let pools = entry.network.pools.iter().filter(|pool| pool.family() == family);
    Err(Refusal::Exhausted {
        network: entry.network.id.clone(),
        family,
        pools: pools.map(|pool| entry.pool_use(pool)).collect(),
    })
}

#[cfg(test)]
mod tests;
