//! Which VNIs are free.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use loden_proto::model::Vni;

use super::alloc::Gaps;
use super::record::{Stamp, Stored, VniRecord};
use crate::store::Revision;

/// The claims to VNIs, and an index of the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Vnis {
    claims: BTreeMap<Vni, Stored<VniRecord>>,
    free: Gaps,
    cooling: BTreeSet<(Stamp, Vni)>,
}

impl Default for Vnis {
    fn default() -> Self {
        let free = Gaps::new(Vni::MIN.get(), Vni::MAX.get());
        Self { claims: BTreeMap::new(), free, cooling: BTreeSet::new() }
    }
}

impl Vnis {
    /// The claim to a VNI.
    pub(super) fn claim(&self, vni: Vni) -> Option<&Stored<VniRecord>> {
        self.claims.get(&vni)
    }

    /// A claim is made or changed.
    pub(super) fn put(&mut self, vni: Vni, record: VniRecord, revision: Revision) {
        self.delete(vni);
        self.free.take(vni.get());
        if let Some(until) = record.cooling_until {
            self.cooling.insert((until, vni));
        }
        self.claims.insert(vni, Stored { record, revision });
    }

    /// A claim is gone: the VNI is free.
    pub(super) fn delete(&mut self, vni: Vni) {
        if let Some(until) = self.claims.remove(&vni).and_then(|claim| claim.record.cooling_until) {
            self.cooling.remove(&(until, vni));
        }
        self.free.give(vni.get());
    }

    /// A free VNI: ranges in order, the lowest never used, else the one that has cooled down longest.
    pub(super) fn choose(&self, ranges: &[RangeInclusive<Vni>], now: Stamp) -> Option<Vni> {
        let never_used = |range: &RangeInclusive<Vni>| {
            Vni::try_from(self.free.first_within(range.start().get(), range.end().get())?).ok()
        };
        let cooled = || self.cooled(now).find(|vni| ranges.iter().any(|range| range.contains(vni)));
        ranges.iter().find_map(never_used).or_else(cooled)
    }

    /// The VNIs that have cooled down, the one given back first before others.
    pub(super) fn cooled(&self, now: Stamp) -> impl Iterator<Item = Vni> + '_ {
        self.cooling.iter().take_while(move |(until, _)| *until <= now).map(|(_, vni)| *vni)
    }
}
