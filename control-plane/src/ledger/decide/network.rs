//! Networks: created, changed, deleted.

use ipnet::IpNet;
use loden_proto::InvalidValue;
use loden_proto::model::{Backend, Mtu, Network, NetworkSpec, Pool, Vni};
use loden_proto::names::NetworkId;

use super::draft::{Draft, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::network::NetworkLedger;
use crate::ledger::record::{CatalogRecord, Made, NetworkRecord, Stamp, VniRecord};
use crate::ledger::refusal::{Named, Refusal, VniRange};

/// Most pools of one network: its record stays well below the store's limit.
const MOST_POOLS: usize = 128;
/// Most records that one step of a deletion touches.
const STEP: usize = 100;

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
            Some(entry) if entry.deleting => return Err(Refusal::Deleting(spec.id.clone())),
            Some(_) => return Err(Refusal::Exists(Named::Network(spec.id.clone()))),
            None => {}
        }
        self.check_pools(&spec.id, &spec.pools)?;
        self.check_port(spec)?;
        let vni = self.choose_vni(spec, context)?;

        let record = NetworkRecord {
            pools: spec.pools.clone(),
            vni,
            mtu: spec.mtu,
            backend: spec.backend,
            lease_ttl: spec.lease_ttl,
            created: context.now.into(),
            deleting: false,
        };
        let mut draft = Draft::default();
        draft.put(&RecordKey::Network(spec.id.clone()), &record, None);
        let claim = VniRecord { network: spec.id.clone(), cooling_until: None };
        draft.put(&RecordKey::Vni(vni), &claim, revision_of(self.vnis.claim(vni)));
        draft.put(&RecordKey::Catalog, &CatalogRecord {}, self.catalog);
        self.remember(&mut draft, request_id, &content, Made::Network(spec.id.clone()), context);
        Ok(draft.finish(Want::Network(spec.id.clone())))
    }

    /// Changes a network's pools and MTU.
    pub(super) fn update_network(
        &self,
        id: &NetworkId,
        pools: Option<&[Pool]>,
        mtu: Option<Option<Mtu>>,
    ) -> Result<Decision, Refusal> {
        let entry = self.open_network(id)?;
        let now = &entry.network;
        let next = Network {
            pools: pools.map_or_else(|| now.pools.clone(), <[Pool]>::to_vec),
            mtu: mtu.unwrap_or(now.mtu),
            ..now.clone()
        };
        check_spec(&NetworkSpec {
            id: id.clone(),
            pools: next.pools.clone(),
            vni: Some(next.vni),
            mtu: next.mtu,
            backend: next.backend,
            lease_ttl: next.lease_ttl,
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
        self.check_pools(id, &next.pools)?;
        let mut draft = Draft::default();
        if next != *now {
            let key = RecordKey::Network(id.clone());
            draft.put(&key, &NetworkRecord::of(&next, false), Some(entry.revision()));
            draft.put(&RecordKey::Catalog, &CatalogRecord {}, self.catalog);
        }
        Ok(draft.finish(Want::Network(id.clone())))
    }

    /// Deletes a network: marks it first, so that nothing new gets in, then empties it in steps.
    pub(super) fn delete_network(
        &self,
        id: &NetworkId,
        force: bool,
        context: &Context<'_>,
    ) -> Result<Decision, Refusal> {
        let entry = self.known_network(id)?;
        let (leases, reservations) = (entry.leases.len(), entry.reservations.len());
        if !entry.deleting && !force && leases + reservations > 0 {
            return Err(Refusal::NetworkInUse { network: id.clone(), leases, reservations });
        }
        Ok(self.delete_step(entry, context))
    }

    /// One step of a deletion; the last one takes the network itself.
    pub(super) fn delete_step(&self, entry: &NetworkLedger, context: &Context<'_>) -> Decision {
        let id = &entry.network.id;
        let mut draft = Draft::default();
        let leases = entry.leases.iter().flat_map(|(node, lease)| {
            let expiry =
                lease.expiry.as_ref().map(|expiry| (RecordKey::Expiry(entry.name(node)), expiry.revision));
            expiry.into_iter().chain([(RecordKey::Lease(entry.name(node)), lease.revision)])
        });
        let reservations = entry.reservations.iter();
        let reservations =
            reservations.map(|(node, of)| (RecordKey::Reservation(entry.name(node)), of.revision));
        let slots = entry.slots.claims();
        let slots = slots.map(|(slot, claim)| (RecordKey::Slot(id.clone(), slot), claim.revision));
        for (key, revision) in leases.chain(reservations).chain(slots).take(STEP) {
            draft.delete(&key, revision);
        }
        let network = RecordKey::Network(id.clone());
        if draft.len() == STEP {
            if entry.deleting {
                draft.guard(&network, Some(entry.revision()));
            } else {
                draft.put(&network, &NetworkRecord::of(&entry.network, true), Some(entry.revision()));
            }
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

    /// Pools must not overlap another network's, nor any node's underlay address.
    fn check_pools(&self, id: &NetworkId, pools: &[Pool]) -> Result<(), Refusal> {
        for (index, pool) in pools.iter().enumerate() {
            let field = format!("network.pools[{index}].cidr");
            let cidr = pool.cidr();
            if let Some((other, network)) = self.overlapping(cidr, id) {
                return Err(Refusal::PoolOverlaps { field, cidr, other, network: network.clone() });
            }
            let mut underlay = self.addresses.range(cidr.network()..=cidr.broadcast());
            if let Some((address, leases)) = underlay.next()
                && let Some(lease) = leases.first()
            {
                return Err(Refusal::OverlapsUnderlay {
                    field,
                    pool: cidr,
                    network: id.clone(),
                    address: *address,
                    node: lease.node.clone(),
                });
            }
        }
        Ok(())
    }

    fn overlapping(&self, cidr: IpNet, own: &NetworkId) -> Option<(IpNet, &NetworkId)> {
        let within = self.pools.range(cidr.network()..=cidr.broadcast());
        let around = self.pools.range(..cidr.network()).rev();
        let around = around.take(1).filter(|(_, (pool, _))| pool.contains(&cidr));
        let mut others = within.chain(around).filter(|(_, (_, network))| network != own);
        others.next().map(|(_, (pool, network))| (*pool, network))
    }

    /// The group policy extension is a property of the UDP port.
    fn check_port(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        let Backend::Vxlan(asked) = spec.backend else { return Ok(()) };
        let differs = |network: &&Network| matches!(network.backend, Backend::Vxlan(other) if other.port == asked.port && other.gbp != asked.gbp);
        match self.networks().find(differs) {
            Some(network) => Err(Refusal::PortDisagrees {
                field: "network.vxlan.gbp".to_owned(),
                gbp: asked.gbp,
                port: asked.port,
                network: network.id.clone(),
            }),
            None => Ok(()),
        }
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
