//! Which slot a node gets in each family.
//!
//! ```text
//!  reservation ─▶ the lease's own ─▶ claimed and free ─▶ given back by itself ─▶ free ─▶ stolen ─▶ Exhausted
//!  (of a new instance, or of none)                                          └─▶ Settling: nothing new
//!
//!  while adopting:  claimed, even from a lease or reservation of before ─▶ own ─▶ reservation ─▶ Adopting
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

/// What a node gets, whose leases end for it, and whose reservations go.
pub(super) struct Assignment {
    pub(super) subnets: Subnets,
    pub(super) losers: BTreeSet<NodeId>,
    pub(super) revoked: BTreeSet<NodeId>,
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
    /// Chooses a slot in each family of the network: all or none.
    pub(super) fn assign(
        &self,
        entry: &NetworkLedger,
        asking: &Asking<'_>,
        context: &Context<'_>,
    ) -> Result<Assignment, Refusal> {
        let mut chosen = Vec::new();
        let (mut losers, mut revoked) = (BTreeSet::new(), BTreeSet::new());
        let mut missing = Vec::new();
        for family in entry.network.families() {
            let slot = if self.is_adopting() {
                Some(self.adopt(entry, asking, family, context, (&mut losers, &mut revoked))?)
            } else {
                self.choose(entry, asking, family, context)?
            };
            match slot {
                Some(slot) => chosen.push(slot),
                None => missing.push(family),
            }
        }
        steal(entry, asking.name, missing, context, &mut chosen, &mut losers)?;
        Ok(Assignment { subnets: Subnets::new(chosen)?, losers, revoked })
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
        if let Some(known) = reserved.or(own) {
            return Ok(Some(known));
        }
        if let Some(knocked) = context.knocked {
            return Err(Refusal::Knocked(knocked));
        }
        let known = of_family(asking.claim, family)
            .filter(|slot| is_grantable(entry, *slot, node, now))
            .or_else(|| entry.slots.previous(node, family));
        if known.is_some() {
            return Ok(known);
        }
        if let Some(retry_after) = context.settling {
            return Err(Refusal::Settling { retry_after });
        }
        Ok(entry.slots.choose(node, family, now))
    }

    /// The slot that a node says it holds, while leases are being collected.
    fn adopt(
        &self,
        entry: &NetworkLedger,
        asking: &Asking<'_>,
        family: Family,
        context: &Context<'_>,
        (losers, revoked): (&mut BTreeSet<NodeId>, &mut BTreeSet<NodeId>),
    ) -> Result<IpNet, Refusal> {
        let node = &asking.name.node;
        let reservation = entry.reservations.get(node).map(|stored| &stored.record.subnets);
        let claimed = of_family(asking.claim, family);
        let own = || of_family(asking.own.as_ref(), family);
        let Some(slot) = claimed.or_else(own).or_else(|| of_family(reservation, family)) else {
            return Err(self.adopting(format!("a claim to an {family} subnet is needed until then"), context));
        };
        let Some(claim) = entry.slots.claim(slot).map(|claim| &claim.record) else { return Ok(slot) };
        if let Some(other) = claim.reserved.as_ref().filter(|other| *other != node) {
            // One that was made since the store was lost is the operator's word of now.
            let made = entry.reservations.get(other).map(|stored| stored.record.incarnation);
            if made == Some(self.present_incarnation()) {
                return Err(
                    self.adopting(format!("the claimed subnet {slot} is reserved for {other}"), context)
                );
            }
            revoked.insert(other.clone());
        }
        let Some(other) = claim.lease.as_ref().filter(|other| *other != node) else { return Ok(slot) };
        if entry.leases.get(other).is_some_and(|lease| self.is_confirmed(&lease.record)) {
            let reason = format!("the claimed subnet {slot} has been confirmed by {other}");
            return Err(self.adopting(reason, context));
        }
        losers.insert(other.clone());
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
mod tests {
    use loden_proto::model::Endpoint;

    use crate::ledger::testing::{
        Rig, acquire, acquire_at, claim, endpoint, name, network, release, renew, reserve, set_pools,
    };
    use crate::ledger::{Command, LeaseState};

    fn small() -> Rig {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig
    }

    #[test]
    fn a_node_gets_one_subnet_per_family_and_the_same_everywhere() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/16", "2001:db8::/48"]));
        rig.must(acquire("blue", "a", 1));
        assert_eq!(rig.subnets("blue", "a"), "10.1.101.0/24, 2001:db8:0:d391::/64");
        rig.check();
    }

    #[test]
    fn a_node_that_returns_gets_its_subnet_after_expiry_and_after_release() {
        let mut rig = small();
        rig.must(acquire("blue", "a", 1));
        let slot = rig.subnets("blue", "a");
        rig.expire("blue", "a");
        assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
        rig.pass(30 * 24 * 3600);
        rig.must(acquire("blue", "a", 2));
        assert_eq!(rig.subnets("blue", "a"), slot);
        rig.must(release("blue", "a"));
        rig.must(acquire("blue", "b", 1));
        rig.must(acquire("blue", "c", 1));
        rig.must(acquire("blue", "a", 3));
        assert_eq!(rig.subnets("blue", "a"), slot);
        rig.check();
    }

    #[test]
    fn a_released_subnet_cools_down_before_another_node_has_it() {
        let mut rig = small();
        for node in ["a", "b", "c"] {
            rig.must(acquire("blue", node, 1));
        }
        let slot = rig.subnets("blue", "b");
        rig.must(release("blue", "b"));
        rig.refused(acquire("blue", "d", 1));
        rig.refused(claim("blue", "d", 1, &slot));
        rig.pass(3599);
        rig.must(Command::Tidy);
        rig.refused(acquire("blue", "d", 1));
        rig.pass(1);
        rig.must(acquire("blue", "d", 1));
        assert_eq!(rig.subnets("blue", "d"), slot);
        rig.check();
    }

    #[test]
    fn a_claim_is_granted_when_it_is_free_and_otherwise_ignored() {
        let mut rig = small();
        rig.must(claim("blue", "a", 1, "10.1.3.0/24"));
        assert_eq!(rig.subnets("blue", "a"), "10.1.3.0/24");
        rig.must(claim("blue", "b", 1, "10.1.3.0/24"));
        assert_ne!(rig.subnets("blue", "b"), "10.1.3.0/24");
        rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
        assert_eq!(rig.subnets("blue", "a"), "10.1.3.0/24", "a lease stays where it is");
        rig.check();
    }

    #[test]
    fn only_when_nothing_is_free_the_longest_held_of_those_away_is_stolen() {
        let mut rig = small();
        for node in ["a", "b", "c"] {
            rig.must(acquire("blue", node, 1));
        }
        rig.pass(12 * 3600);
        rig.must(renew("blue", "a"));
        for node in ["b", "c", "a"] {
            rig.expire("blue", node);
            rig.pass(1);
        }
        rig.stream("blue", "b", 1);
        let stolen = rig.subnets("blue", "c");
        rig.must(acquire("blue", "d", 1));
        assert_eq!(rig.subnets("blue", "d"), stolen);
        assert_eq!(rig.ledger.lease(&name("blue", "c")), None);
        assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
        rig.check();
    }

    #[test]
    fn what_else_a_stolen_lease_had_cools_down() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22", "2001:db8::/48"]));
        for node in ["a", "b", "c"] {
            rig.must(acquire("blue", node, 1));
        }
        let before = rig.lease("blue", "a").subnets;
        rig.expire("blue", "a");
        rig.must(acquire("blue", "d", 1));
        let after = rig.lease("blue", "d").subnets;
        assert_eq!(after.v4, before.v4);
        assert_ne!(after.v6, before.v6);
        let used = rig.ledger.capacity(&"blue".parse().unwrap()).unwrap();
        assert_eq!((used[0].cooling, used[1].cooling), (0, 1));
        rig.check();
    }

    #[test]
    fn one_stolen_lease_serves_both_families() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22", "2001:db8::/62 in /64"]));
        for node in ["a", "b", "c"] {
            rig.must(acquire("blue", node, 1));
        }
        let before = rig.lease("blue", "a").subnets;
        rig.expire("blue", "a");
        rig.expire("blue", "b");
        rig.must(acquire("blue", "d", 1));
        assert_eq!(rig.lease("blue", "d").subnets, before);
        assert!(rig.ledger.lease(&name("blue", "b")).is_some());
        rig.check();
    }

    #[test]
    fn a_reserved_subnet_goes_to_its_node_only_and_is_never_stolen() {
        let mut rig = small();
        rig.must(reserve("blue", "z", "10.1.2.0/24"));
        rig.must(acquire("blue", "a", 1));
        rig.must(acquire("blue", "b", 1));
        rig.refused(acquire("blue", "c", 1));
        rig.refused(claim("blue", "c", 1, "10.1.2.0/24"));
        rig.must(acquire("blue", "z", 1));
        let lease = rig.lease("blue", "z");
        assert_eq!(
            (lease.subnets.to_string().as_str(), lease.reserved, lease.expires),
            ("10.1.2.0/24", true, None)
        );
        rig.must(release("blue", "z"));
        rig.pass(30 * 24 * 3600);
        rig.refused(acquire("blue", "c", 1));
        rig.must(acquire("blue", "z", 2));
        assert_eq!(rig.subnets("blue", "z"), "10.1.2.0/24");
        rig.check();
    }

    #[test]
    fn a_lease_moves_to_its_reservation_with_the_next_instance() {
        let mut rig = small();
        rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
        rig.must(reserve("blue", "a", "10.1.2.0/24"));
        rig.must(acquire("blue", "a", 1));
        assert_eq!(rig.subnets("blue", "a"), "10.1.1.0/24", "its containers run there");
        assert!(!rig.lease("blue", "a").reserved);
        rig.must(acquire("blue", "a", 2));
        assert_eq!(rig.subnets("blue", "a"), "10.1.2.0/24");
        let used = &rig.ledger.capacity(&"blue".parse().unwrap()).unwrap()[0];
        assert_eq!((used.leased, used.cooling, used.free), (1, 1, 1));
        rig.check();
    }

    #[test]
    fn a_pool_of_a_new_family_reaches_a_lease_with_its_next_acquire() {
        let mut rig = small();
        rig.must(acquire("blue", "a", 1));
        let slot = rig.subnets("blue", "a");
        rig.must(set_pools("blue", &["10.1.0.0/22", "2001:db8::/48"]));
        let epoch = rig.lease("blue", "a").epoch;
        rig.must(acquire("blue", "a", 1));
        assert!(rig.subnets("blue", "a").starts_with(&format!("{slot}, 2001:db8:0:")));
        assert_eq!(rig.lease("blue", "a").epoch, epoch);
        rig.check();
    }

    #[test]
    fn a_pool_fills_to_the_last_subnet() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.0.0.0/8 in /19"]));
        let acquire = |number: u32| {
            let address = u32::from(std::net::Ipv4Addr::new(172, 16, 0, 0)) + number;
            let endpoint = Endpoint { v4: Some(address.into()), ..endpoint(1) };
            acquire_at("blue", &format!("node-{number}"), 1, endpoint)
        };
        for number in 1..2048 {
            rig.must(acquire(number));
        }
        let used = &rig.ledger.capacity(&"blue".parse().unwrap()).unwrap()[0];
        assert_eq!((used.slots, used.free, used.leased), (2048, 0, 2047));
        rig.refused(acquire(2048));
        rig.check();
    }
}
