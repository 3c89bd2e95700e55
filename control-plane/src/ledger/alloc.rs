//! Which slots are free: ordered gaps, so that a search does not probe and a huge pool costs nothing.
//!
//! ```text
//!  index   0 1 2 3 4 5 6 7 8 9 …            gaps {3→5, 8→last}
//!          - x x . . . x x . .
//!                    ▲ start (hash of the name): first free at or after it, else the first of all
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use loden_proto::model::{Family, Pool};
use loden_proto::names::NodeId;
use sha2::{Digest, Sha256};

use super::record::{Cooling, SlotRecord, Stamp, Stored};
use crate::store::Revision;

/// Free numbers as ranges, first → last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Gaps(BTreeMap<u32, u32>);

impl Gaps {
    /// All numbers from `first` to `last` are free.
    pub(super) fn new(first: u32, last: u32) -> Self {
        Self(BTreeMap::from([(first, last)]))
    }

    /// The first free number in `first..=last`, in O(log n).
    pub(super) fn first_within(&self, first: u32, last: u32) -> Option<u32> {
        let around = self.0.range(..=first).next_back().filter(|(_, end)| **end >= first);
        let found = match around {
            Some(_) => first,
            None => *self.0.range(first..).next()?.0,
        };
        (found <= last).then_some(found)
    }

    /// `number` is not free any more; nothing happens when it was not.
    pub(super) fn take(&mut self, number: u32) {
        let Some((&start, &end)) = self.0.range(..=number).next_back().filter(|(_, end)| **end >= number)
        else {
            return;
        };
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number - 1);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
    }

    /// `number` is free again; nothing happens when it was.
    pub(super) fn give(&mut self, number: u32) {
        let before = self.0.range(..=number).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end >= number) {
            return;
        }
        let first = match before.filter(|(_, end)| end + 1 == number) {
            Some((start, _)) => start,
            None => number,
        };
        let last = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        self.0.insert(first, last);
    }

    /// How many numbers are free.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }
}

/// The slots of one pool that nobody has a claim to.
#[derive(Clone, Debug, Eq, PartialEq)]
struct PoolSlots {
    pool: Pool,
    /// Never used, or forgotten since.
    free: Gaps,
    /// Given back; may be used again at the time.
    cooling: BTreeSet<(Stamp, u32)>,
}

impl PoolSlots {
    fn new(pool: Pool) -> Self {
        Self { pool, free: Gaps::new(1, pool.slots() - 1), cooling: BTreeSet::new() }
    }

    fn choose(&self, hash: u64, now: Stamp) -> Option<IpNet> {
        let last = self.pool.slots() - 1;
        // Below 2³¹, as the number of slots is.
        let start = 1 + (hash % u64::from(last)) as u32;
        let never_used = || self.free.first_within(start, last).or_else(|| self.free.first_within(1, start));
        let cooled = || self.cooling.first().filter(|(until, _)| *until <= now).map(|(_, index)| *index);
        self.pool.slot(never_used().or_else(cooled)?)
    }
}

/// All slots of one network: the records of those with a claim, and an index of the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Slots {
    pools: Vec<PoolSlots>,
    claims: BTreeMap<IpNet, Stored<SlotRecord>>,
    /// The cooling slots that a node has given back.
    previous: BTreeMap<NodeId, BTreeSet<IpNet>>,
}

impl Slots {
    /// Takes over another list of pools; claims stay.
    pub(super) fn set_pools(&mut self, pools: &[Pool]) {
        self.pools = pools.iter().copied().map(PoolSlots::new).collect();
        let claims = std::mem::take(&mut self.claims);
        self.previous.clear();
        for (slot, Stored { record, revision }) in claims {
            self.put(slot, record, revision);
        }
    }

    /// The claim to a slot.
    pub(super) fn claim(&self, slot: IpNet) -> Option<&Stored<SlotRecord>> {
        self.claims.get(&slot)
    }

    /// All claims, by slot.
    pub(super) fn claims(&self) -> impl Iterator<Item = (IpNet, &Stored<SlotRecord>)> {
        self.claims.iter().map(|(slot, claim)| (*slot, claim))
    }

    /// A claim is made or changed.
    pub(super) fn put(&mut self, slot: IpNet, record: SlotRecord, revision: Revision) {
        self.unset(slot);
        if let Some((pool, index)) = self.position(slot) {
            self.pools[pool].free.take(index);
            if let Some(cooling) = cooling_only(&record) {
                self.pools[pool].cooling.insert((cooling.until, index));
            }
        }
        if let Some(cooling) = cooling_only(&record) {
            self.previous.entry(cooling.node.clone()).or_default().insert(slot);
        }
        self.claims.insert(slot, Stored { record, revision });
    }

    /// A claim is gone: the slot is free.
    pub(super) fn delete(&mut self, slot: IpNet) {
        self.unset(slot);
        if let Some((pool, index)) = self.position(slot) {
            self.pools[pool].free.give(index);
        }
    }

    fn unset(&mut self, slot: IpNet) {
        let Some(Stored { record, .. }) = self.claims.remove(&slot) else { return };
        let Some(cooling) = cooling_only(&record) else { return };
        if let Some((pool, index)) = self.position(slot) {
            self.pools[pool].cooling.remove(&(cooling.until, index));
        }
        if let Some(slots) = self.previous.get_mut(&cooling.node) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.previous.remove(&cooling.node);
            }
        }
    }

    fn position(&self, slot: IpNet) -> Option<(usize, u32)> {
        let mut pools = self.pools.iter().enumerate();
        pools.find_map(|(number, pool)| pool.pool.index(slot).map(|index| (number, index)))
    }

    /// A slot that this node has given back and nobody else has taken.
    pub(super) fn previous(&self, node: &NodeId, family: Family) -> Option<IpNet> {
        self.previous.get(node)?.iter().copied().find(|slot| Family::of_net(*slot) == family)
    }

    /// A free slot for a node: pools in order, in each from the hash of the name on, the cooled-down ones
    /// (the one given back first before others) after those never used.
    pub(super) fn choose(&self, node: &NodeId, family: Family, now: Stamp) -> Option<IpNet> {
        let hash = name_hash(node);
        let mut pools = self.pools.iter().filter(|slots| slots.pool.family() == family);
        pools.find_map(|slots| slots.choose(hash, now))
    }

    /// The slots that have cooled down, of each pool the ones given back first.
    pub(super) fn cooled(&self, now: Stamp) -> impl Iterator<Item = IpNet> + '_ {
        self.pools.iter().flat_map(move |slots| {
            let cooled = slots.cooling.iter().take_while(move |(until, _)| *until <= now);
            cooled.filter_map(|(_, index)| slots.pool.slot(*index))
        })
    }

    /// How many slots of a pool nobody has a claim to.
    pub(super) fn free(&self, pool: &Pool) -> u64 {
        self.pools.iter().find(|slots| slots.pool == *pool).map_or(0, |slots| slots.free.count())
    }
}

/// The cooling of a slot that is neither leased nor reserved.
fn cooling_only(record: &SlotRecord) -> Option<&Cooling> {
    let claimed = record.lease.is_some() || record.reserved.is_some();
    record.cooling.as_ref().filter(|_| !claimed)
}

/// Where a node's search starts; the same for ever and everywhere, so that a fleet that lost its store
/// mostly gets its slots again.
fn name_hash(node: &NodeId) -> u64 {
    let digest = Sha256::digest(node.as_str());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(pools: &[(&str, u8)]) -> Slots {
        let pools: Vec<_> =
            pools.iter().map(|(cidr, len)| Pool::new(cidr.parse().unwrap(), Some(*len)).unwrap()).collect();
        let mut slots = Slots::default();
        slots.set_pools(&pools);
        slots
    }

    fn leased(node: &str) -> SlotRecord {
        SlotRecord { lease: Some(node.parse().unwrap()), ..SlotRecord::default() }
    }

    fn at(ms: u64) -> Stamp {
        Stamp::from(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(ms))
    }

    #[test]
    fn the_start_of_a_search_never_changes() {
        assert_eq!(name_hash(&"node-1".parse().unwrap()), 0x3597_1be6_e9bb_024a);
    }

    #[test]
    fn the_first_slot_is_never_chosen_and_the_search_wraps() {
        let mut slots = slots(&[("10.0.0.0/22", 24)]);
        let mut chosen = Vec::new();
        for node in ["a", "b", "c"] {
            let slot = slots.choose(&node.parse().unwrap(), Family::V4, at(0)).unwrap();
            slots.put(slot, leased(node), Revision(1));
            chosen.push(slot.to_string());
        }
        chosen.sort();
        assert_eq!(chosen, ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
        assert_eq!(slots.choose(&"d".parse().unwrap(), Family::V4, at(0)), None);
    }

    #[test]
    fn pools_are_taken_in_order() {
        let mut slots = slots(&[("10.9.0.0/22", 24), ("10.1.0.0/22", 24)]);
        for node in ["a", "b", "c"] {
            let slot = slots.choose(&node.parse().unwrap(), Family::V4, at(0)).unwrap();
            assert!(slot.to_string().starts_with("10.9."), "{slot}");
            slots.put(slot, leased(node), Revision(1));
        }
        let slot = slots.choose(&"d".parse().unwrap(), Family::V4, at(0)).unwrap();
        assert!(slot.to_string().starts_with("10.1."), "{slot}");
    }

    #[test]
    fn a_cooling_slot_is_chosen_last_and_not_before_its_time() {
        let mut slots = slots(&[("10.0.0.0/22", 24)]);
        for (index, until) in [(1, 30), (2, 20), (3, 25)] {
            let cooling = Some(Cooling { until: at(until), node: "x".parse().unwrap() });
            let slot = format!("10.0.{index}.0/24").parse().unwrap();
            slots.put(slot, SlotRecord { cooling, ..SlotRecord::default() }, Revision(1));
        }
        let choose =
            |now| slots.choose(&"a".parse().unwrap(), Family::V4, at(now)).map(|slot| slot.to_string());
        assert_eq!(choose(19), None);
        assert_eq!(choose(40), Some("10.0.2.0/24".to_owned()));
        assert_eq!(slots.cooled(at(25)).count(), 2);
        assert!(slots.previous(&"x".parse().unwrap(), Family::V4).is_some());
    }

    #[test]
    fn a_pool_of_two_to_the_31_costs_one_gap() {
        let slots = slots(&[("2001:db8::/33", 64)]);
        assert_eq!(slots.pools[0].free.0.len(), 1);
        assert!(slots.choose(&"a".parse().unwrap(), Family::V6, at(0)).is_some());
    }

    #[test]
    fn a_pool_of_65536_fills_without_probing() {
        let mut slots = slots(&[("10.0.0.0/8", 24)]);
        for number in 1..65_536 {
            let node = format!("node-{number}");
            let slot = slots.choose(&node.parse().unwrap(), Family::V4, at(0)).unwrap();
            slots.put(slot, leased(&node), Revision(1));
        }
        assert_eq!(slots.choose(&"late".parse().unwrap(), Family::V4, at(0)), None);
        assert_eq!(slots.claims().count(), 65_535);
    }

    proptest! {
        #[test]
        fn gaps_are_the_complement_of_what_was_taken(
            steps in proptest::collection::vec((any::<bool>(), 1u32..40), 0..200),
            first in 1u32..40,
        ) {
            let mut gaps = Gaps::new(1, 39);
            let mut free: BTreeSet<u32> = (1..40).collect();
            for (take, number) in steps {
                if take { gaps.take(number); free.remove(&number); } else { gaps.give(number); free.insert(number); }
                prop_assert_eq!(gaps.first_within(first, 39), free.range(first..).next().copied());
                prop_assert_eq!(gaps.count(), free.len() as u64);
            }
            let mut last = None;
            for (start, end) in &gaps.0 {
                prop_assert!(start <= end && last.is_none_or(|last| last + 1 < *start), "merged: {:?}", gaps);
                last = Some(*end);
            }
        }
    }
}
