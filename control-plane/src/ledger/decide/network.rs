//! Networks: created and changed.

use ipnet::IpNet;
use loden_proto::InvalidValue;
use loden_proto::model::{Network, NetworkSpec, Pool, Vni};
use loden_proto::names::{NetworkId, NodeId};

use super::backend;
use super::draft::{Draft, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, NetworkChange, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::record::{CatalogRecord, Made, NetworkRecord, Stamp, VniRecord};
use crate::ledger::refusal::{Named, Refusal, VniRange};

/// Most pools of one network: its record stays well below the store's limit.
const MOST_POOLS: usize = 128;

impl Ledger {
    /// Creates a network and claims its VNI.
    pub(super) fn create_network(
        &self,
        spec: &NetworkSpec,
        request_id: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let content = ("network", spec);
        if let Some(want) = self.answered(request_id, &content, context)? {
            return Ok(Draft::default().finish(want));
        }
        check_spec(spec)?;
        match self.networks.get(&spec.id) {
            Some(entry) if entry.deleting.is_some() => return Err(Refusal::Deleting(spec.id.clone())),
            Some(_) => return Err(Refusal::Exists(Named::Network(spec.id.clone()))),
            None => {}
        }
        self.check_pools(&spec.id, &spec.pools, &[])?;
        self.check_port(spec)?;
        let vni = self.choose_vni(spec, context)?;

        let record = NetworkRecord {
            pools: spec.pools.clone(),
            vni,
            mtu: spec.mtu,
            backend: spec.backend,
            lease_ttl: spec.lease_ttl,
            masquerade: spec.masquerade.clone(),
            created: context.now.into(),
            deleting: None,
        };
        let mut draft = Draft::default();
        draft.put(&RecordKey::Network(spec.id.clone()), &record, None);
        let claim = VniRecord { network: spec.id.clone(), cooling_until: None };
        draft.put(&RecordKey::Vni(vni), &claim, revision_of(self.vnis.claim(vni)));
        draft.put(&RecordKey::Catalog, &CatalogRecord {}, self.catalog);
        self.prolong_adoption(&mut draft, context);
        self.remember(&mut draft, request_id, &content, Made::Network(spec.id.clone()), context);
        Ok(draft.finish(Want::Network(spec.id.clone())))
    }

    /// Changes a network's pools, MTU and masquerading, and what of its backend can be changed.
    ///
    /// That a pool is unused is known of everything accepted so far in this process. Replicas on a shared
    /// store could lease a slot of it unseen, before the change: for them it would have to be marked first,
    /// as a deletion is.
    pub(super) fn update_network(
        &self,
        id: &NetworkId,
        change: &NetworkChange,
        seen: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let entry = self.open_network(id)?;
        let now = &entry.network;
        if let Some(seen) = seen.filter(|seen| *seen != now.revision) {
            return Err(Refusal::StaleRevision { network: id.clone(), seen, current: now.revision });
        }
        let next = Network {
            pools: change.pools.clone().unwrap_or_else(|| now.pools.clone()),
            mtu: change.mtu.unwrap_or(now.mtu),
            masquerade: change.masquerade.clone().unwrap_or_else(|| now.masquerade.clone()),
            backend: backend::changed(now.backend, change)?,
            ..now.clone()
        };
        check_spec(&NetworkSpec {
            id: id.clone(),
            pools: next.pools.clone(),
            vni: Some(next.vni),
            mtu: next.mtu,
            backend: next.backend,
            lease_ttl: next.lease_ttl,
            masquerade: next.masquerade.clone(),
        })?;
        for old in now.pools.iter().filter(|old| !next.pools.contains(old)) {
            if let Some(index) = next.pools.iter().position(|pool| pool.cidr() == old.cidr()) {
                let rule =
                    format!("must stay {}: the length of a pool's subnets never changes", old.slot_len());
                let field = format!("network.pools[{index}].node_prefix_len");
                return Err(InvalidValue::new(next.pools[index].slot_len(), rule).at(field).into());
            }
            let used = entry.pool_use(old);
            if used.leased + used.held + used.reserved + used.cooling > 0 {
                return Err(Refusal::PoolInUse { pool: *old, used });
            }
        }
        self.check_pools(id, &next.pools, &now.pools)?;
        let mut draft = Draft::default();
        if next != *now {
            let key = RecordKey::Network(id.clone());
            draft.put(&key, &NetworkRecord::of(&next, None), Some(entry.revision()));
            draft.put(&RecordKey::Catalog, &CatalogRecord {}, self.catalog);
        }
        if next.pools.iter().any(|pool| !now.pools.contains(pool)) {
            self.prolong_adoption(&mut draft, context);
        }
        Ok(draft.finish(Want::Network(id.clone())))
    }

    /// Pools must not overlap another network's, nor any node's underlay address; those that are not `known`
    /// yet, nor what a node reaches on its underlay.
    fn check_pools(&self, id: &NetworkId, pools: &[Pool], known: &[Pool]) -> Result<(), Refusal> {
        for (index, pool) in pools.iter().enumerate() {
            let field = format!("network.pools[{index}].cidr");
            let cidr = pool.cidr();
            if let Some((other, network)) = self.overlapping(cidr, id) {
                return Err(Refusal::PoolOverlaps { field, cidr, other, network: network.clone() });
            }
            let below = self.address_in(cidr);
            let below = below.or_else(|| self.prefix_below(pool).filter(|_| !known.contains(pool)));
            if let Some((underlay, node)) = below {
                let (pool, network, node) = (cidr, id.clone(), node.clone());
                return Err(Refusal::OverlapsUnderlay { field, pool, network, underlay, node });
            }
        }
        Ok(())
    }

    /// An underlay address in a pool, and whose it is.
    fn address_in(&self, cidr: IpNet) -> Option<(String, &NodeId)> {
        let (address, leases) = self.addresses.range(cidr.network()..=cidr.broadcast()).next()?;
        Some((format!("address {address}"), &leases.first()?.node))
    }

    /// A prefix of a node's underlay that a pool overlaps, as its node has told.
    fn prefix_below(&self, pool: &Pool) -> Option<(String, &NodeId)> {
        let leases = self.networks.values().flat_map(|entry| &entry.leases);
        let mut active = leases.filter(|(_, lease)| lease.record.held_since.is_none());
        active.find_map(|(node, lease)| {
            let prefix = lease.record.underlay.iter().find(|prefix| pool.overlaps(**prefix))?;
            Some((format!("prefix {prefix}"), node))
        })
    }

    fn overlapping(&self, cidr: IpNet, own: &NetworkId) -> Option<(IpNet, &NetworkId)> {
        let within = self.pools.range(cidr.network()..=cidr.broadcast());
        let around = self.pools.range(..cidr.network()).rev();
        let around = around.take(1).filter(|(_, (pool, _))| pool.contains(&cidr));
        let mut others = within.chain(around).filter(|(_, (_, network))| network != own);
        others.next().map(|(_, (pool, network))| (*pool, network))
    }

    fn choose_vni(&self, spec: &NetworkSpec, context: &Context<'_>) -> Result<Vni, Refusal> {
        let now = Stamp::from(context.now);
        let Some(asked) = spec.vni else {
            let ranges = &context.defaults.vnis;
            return self.vnis.choose(ranges, now).ok_or_else(|| Refusal::VnisExhausted {
                ranges: ranges
                    .iter()
                    .map(|range| VniRange { first: *range.start(), last: *range.end() })
                    .collect(),
            });
        };
        let Some(claim) = self.vnis.claim(asked).map(|claim| &claim.record) else { return Ok(asked) };
        let (field, value, owner) =
            ("network.vni".to_owned(), asked.to_string(), Named::Network(claim.network.clone()));
        match claim.cooling_until {
            None => Err(Refusal::Taken { field, value, owner, within: "cluster" }),
            // The same network again, as its nodes know it.
            Some(until) if until <= now || claim.network == spec.id => Ok(asked),
            Some(until) => {
                Err(Refusal::CoolingDown { field, value, last: owner, remaining: until.since(now) })
            }
        }
    }
}

fn check_spec(spec: &NetworkSpec) -> Result<(), InvalidValue> {
    if spec.pools.len() > MOST_POOLS {
        let rule = format!("must be at most {MOST_POOLS}");
        return Err(InvalidValue::new(spec.pools.len(), rule).at("network.pools"));
    }
    spec.check().map_err(|invalid| invalid.at("network"))
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Masquerade, Mtu, Vni};

    use crate::ledger::testing::{Rig, acquire, network, pool, release};
    use crate::ledger::{Command, NetworkChange};

    fn delete(force: bool) -> Command {
        Command::DeleteNetwork { id: "blue".parse().unwrap(), force }
    }

    #[test]
    fn a_network_is_created_changed_and_deleted() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        let id = "blue".parse().unwrap();
        let created = rig.ledger.network(&id).unwrap().clone();
        assert_eq!((created.vni, created.revision), (Vni::MIN, rig.ledger.revision().0));
        let pools = Some(vec![pool("10.2.0.0/22"), pool("2001:db8::/48")]);
        rig.must(Command::UpdateNetwork {
            id: id.clone(),
            change: NetworkChange {
                pools: pools.clone(),
                mtu: Some(Mtu::try_from(1400).ok()),
                masquerade: Some(Some(Masquerade::default())),
                direct_routing: Some(true),
                ..NetworkChange::default()
            },
            seen: Some(created.revision),
        });
        let changed = rig.ledger.network(&id).unwrap().clone();
        assert!(changed.revision > created.revision && changed.pools == pools.clone().unwrap());
        assert_eq!(changed.masquerade, Some(Masquerade::default()));
        assert!(changed.backend.is_routed() && !created.backend.is_routed());
        let update = |pools, masquerade| {
            let change = NetworkChange { pools, masquerade, ..NetworkChange::default() };
            Command::UpdateNetwork { id: id.clone(), change, seen: None }
        };
        assert!(rig.must(update(pools, None)).changes.is_empty());
        rig.must(update(None, Some(None)));
        let network_now = rig.ledger.network(&id).unwrap();
        assert_eq!((&network_now.masquerade, network_now.backend), (&None, changed.backend));
        rig.must(network("red", &["10.1.0.0/22"]));
        rig.must(delete(false));
        assert_eq!(rig.ledger.network(&id), None);
        rig.must(network("green", &["10.2.0.0/22"]));
        assert_eq!(rig.ledger.network(&"green".parse().unwrap()).unwrap().vni.get(), 3, "1 cools down");
        rig.check();
    }

    #[test]
    fn two_networks_cannot_both_win_overlapping_pools() {
        let mut rig = Rig::new();
        let first = rig.decide(&network("blue", &["10.1.0.0/22"])).unwrap();
        let second = rig.decide(&network("red", &["10.0.0.0/8"])).unwrap();
        rig.commit(first.changes, first.guards).unwrap();
        rig.commit(second.changes, second.guards).expect_err("the set of networks has changed");
        rig.catch_up();
        rig.must(acquire("blue", "a", 1));
        rig.must(release("blue", "a"));
        rig.check();
    }
}
