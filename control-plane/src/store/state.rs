//! A store's contents in memory, and the commits staged on top of them. Pure.
//!
//! ```text
//! State ──Staged::on──▶ Staged ──stage(commit)*──▶ batches ──(made durable)──▶ State::publish
//! ```

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Batch, Change, Guard, Key, Loaded, Record, Revision, RollingHash, StoreError, commit, digest, journal,
};

/// What a batch weighs in history beside its keys and values.
const BATCH_OVERHEAD: usize = 64;

/// The newest published contents.
#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    hash: RollingHash,
    records: BTreeMap<Key, Held>,
    records_digest: u64,
    history: VecDeque<Batch>,
    /// How the batches of `history` were published together, oldest first.
    groups: VecDeque<Group>,
    history_bytes: usize,
    hash_before_history: RollingHash,
    retain: usize,
    /// History after this is kept, whatever it weighs.
    needed_after: Revision,
}

/// Batches that were published together, and leave history together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) first: Revision,
    pub(super) batches: usize,
    /// What the encoded changes of each batch amount to.
    pub(super) encoded: usize,
    /// What counts of it as history.
    pub(super) weight: usize,
}

impl Group {
    pub(super) fn of(batches: &[Batch]) -> Option<Self> {
        Some(Self {
            first: batches.first()?.revision,
            batches: batches.len(),
            encoded: batches.iter().map(|batch| digest::encoded_len(&batch.changes)).sum(),
            weight: batches.iter().map(history_weight).sum(),
        })
    }

    const fn last(self) -> Revision {
        Revision(self.first.0 + self.batches as u64 - 1)
    }
}

/// One record with its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) value: Bytes,
    pub(super) mod_revision: Revision,
    digest: u64,
}

impl Held {
    pub(super) fn new(key: &Key, value: Bytes, mod_revision: Revision) -> Self {
        let digest = digest::record(key, &value, mod_revision);
        Self { value, mod_revision, digest }
    }
}

impl State {
    /// An empty store that keeps at least `retain` bytes of history.
    pub(super) fn empty(retain: usize) -> Self {
        Self {
            revision: Revision::default(),
            hash: RollingHash::default(),
            records: BTreeMap::new(),
            records_digest: 0,
            history: VecDeque::new(),
            groups: VecDeque::new(),
            history_bytes: 0,
            hash_before_history: RollingHash::default(),
            retain,
            needed_after: Revision(u64::MAX),
        }
    }

    /// What was read back. The caller has checked that the parts agree; `groups` cover the history.
    pub(super) fn restored(loaded: Loaded, groups: Vec<Group>, retain: usize) -> Self {
        let records: BTreeMap<_, _> = loaded
            .records
            .into_iter()
            .map(|record| {
                let held = Held::new(&record.key, record.value, record.mod_revision);
                (record.key, held)
            })
            .collect();
        Self {
            revision: loaded.revision,
            hash: loaded.hash,
            records_digest: records.values().fold(0, |all, held| all ^ held.digest),
            records,
            history_bytes: groups.iter().map(|group| group.weight).sum(),
            groups: groups.into(),
            history: loaded.history.into(),
            hash_before_history: loaded.hash_before_history,
            retain,
            needed_after: Revision(u64::MAX),
        }
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) const fn hash(&self) -> RollingHash {
        self.hash
    }

    pub(super) fn held(&self, key: &Key) -> Option<&Held> {
        self.records.get(key)
    }

    /// The records whose keys come after this one, in their order.
    pub(super) fn records_after(&self, after: Option<&Key>) -> impl Iterator<Item = (&Key, &Held)> {
        self.records.range::<Key, _>((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// From now on history after `revision` is kept, whatever it weighs: somebody makes the records of it.
    pub(super) const fn need_after(&mut self, revision: Revision) {
        self.needed_after = revision;
    }

    pub(super) fn loaded(&self) -> Loaded {
        let records = self.records.iter().map(|(key, held)| Record {
            key: key.clone(),
            value: held.value.clone(),
            mod_revision: held.mod_revision,
        });
        Loaded {
            revision: self.revision,
            hash: self.hash,
            records: records.collect(),
            history: self.history.iter().cloned().collect(),
            hash_before_history: self.hash_before_history,
        }
    }

    /// At most `most` batches after `after`; empty if there is none yet.
    pub(super) fn since(&self, after: Revision, most: usize) -> Result<Vec<Batch>, StoreError> {
        if after > self.revision {
            return Err(StoreError::Ahead { asked: after, revision: self.revision });
        }
        let missing = (self.revision.0 - after.0) as usize;
        let Some(start) = self.history.len().checked_sub(missing) else {
            let oldest = Revision(self.revision.0 - self.history.len() as u64);
            return Err(StoreError::Compacted { asked: after, oldest });
        };
        Ok(self.history.range(start..).take(most).cloned().collect())
    }

    /// The oldest groups that go when `staged` is published: what is needed stays, and at least `retain` bytes.
    pub(super) fn outgrown(&self, staged: &Staged) -> impl Iterator<Item = Group> {
        let added = Group::of(&staged.batches).map_or(0, |group| group.weight);
        let mut bytes = self.history_bytes + added;
        self.groups.iter().copied().take_while(move |group| {
            bytes -= group.weight;
            bytes >= self.retain && group.last() <= self.needed_after
        })
    }

    /// Makes what was staged the newest contents.
    pub(super) fn publish(&mut self, staged: Staged) {
        let outgrown = self.outgrown(&staged).count();
        for group in self.groups.drain(..outgrown) {
            self.history_bytes -= group.weight;
            if let Some(last) = self.history.drain(..group.batches).next_back() {
                self.hash_before_history = last.hash;
            }
        }
        if let Some(group) = Group::of(&staged.batches) {
            self.history_bytes += group.weight;
            self.groups.push_back(group);
        }
        self.history.extend(staged.batches);
        for (key, held) in staged.records {
            match held {
                Some(held) => self.records.insert(key, held),
                None => self.records.remove(&key),
            };
        }
        self.records_digest = staged.records_digest;
        self.revision = staged.revision;
        self.hash = staged.hash;
    }
}

/// Commits decided on top of a [`State`], not yet part of it.
#[derive(Debug)]
pub(super) struct Staged {
    batches: Vec<Batch>,
    /// The same as a group of the journal holds them.
    encoded: Vec<u8>,
    /// What each touched record becomes; `None` is gone.
    records: HashMap<Key, Option<Held>>,
    records_digest: u64,
    revision: Revision,
    hash: RollingHash,
}

impl Staged {
    /// Nothing yet, on top of `state`.
    pub(super) fn on(state: &State) -> Self {
        Self {
            batches: Vec::new(),
            encoded: Vec::new(),
            records: HashMap::new(),
            records_digest: state.records_digest,
            revision: state.revision,
            hash: state.hash,
        }
    }

    /// Adds one commit, or says up to which revision its conflict is to be seen.
    pub(super) fn stage(
        &mut self,
        state: &State,
        changes: Vec<Change>,
        guards: &[Guard],
    ) -> Result<Revision, Revision> {
        for guard in guards {
            self.hold(state, guard)?;
        }
        let revision = self.revision.next();
        for change in &changes {
            let key = change.key();
            let held = match change {
                Change::Put { value, .. } => Some(Held::new(key, value.clone(), revision)),
                Change::Delete { .. } => None,
            };
            let before = self.current(state, key).map_or(0, |held| held.digest);
            self.records_digest ^= before ^ held.as_ref().map_or(0, |held| held.digest);
            self.records.insert(key.clone(), held);
        }
        self.revision = revision;
        self.hash = self.hash.after_encoded(revision, journal::append(&mut self.encoded, &changes));
        self.batches.push(Batch { revision, changes: Arc::from(changes), hash: self.hash });
        Ok(revision)
    }

    pub(super) fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// What [`journal::encode`] makes of the batches, without the hash before them.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// What each touched record becomes.
    pub(super) fn records(&self) -> impl Iterator<Item = (&Key, Option<&Held>)> {
        self.records.iter().map(|(key, held)| (key, held.as_ref()))
    }

    pub(super) const fn records_digest(&self) -> u64 {
        self.records_digest
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) const fn hash(&self) -> RollingHash {
        self.hash
    }

    fn current<'a>(&'a self, state: &'a State, key: &Key) -> Option<&'a Held> {
        self.records.get(key).map_or_else(|| state.held(key), Option::as_ref)
    }

    fn hold(&self, state: &State, guard: &Guard) -> Result<(), Revision> {
        let current = self.current(state, guard.key()).map(|held| held.mod_revision);
        let expected = match guard {
            Guard::Absent(_) => None,
            Guard::Unchanged { revision, .. } => Some(*revision),
        };
        if current == expected {
            return Ok(());
        }
        // Of a record that is gone, the revision that removed it is not kept: everything so far shows it.
        Err(current.unwrap_or(self.revision))
    }
}

fn history_weight(batch: &Batch) -> usize {
    BATCH_OVERHEAD + commit::weight(&batch.changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str) -> Change {
        Change::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()) }
    }

    fn committed(state: &mut State, changes: Vec<Change>) {
        let mut staged = Staged::on(state);
        staged.stage(state, changes, &[]).unwrap();
        state.publish(staged);
    }

    #[test]
    fn a_guard_sees_the_commits_staged_before_it() {
        let state = State::empty(1024);
        let mut staged = Staged::on(&state);
        let absent = [Guard::Absent("a".into())];
        assert_eq!(staged.stage(&state, vec![put("a", "1")], &absent), Ok(Revision(1)));
        assert_eq!(staged.stage(&state, vec![put("a", "2")], &absent), Err(Revision(1)));
        let unchanged = [Guard::Unchanged { key: "a".into(), revision: Revision(1) }];
        assert_eq!(
            staged.stage(&state, vec![Change::Delete { key: "a".into() }], &unchanged),
            Ok(Revision(2))
        );
        assert_eq!(staged.stage(&state, vec![put("a", "3")], &unchanged), Err(Revision(2)));
    }

    #[test]
    fn history_keeps_the_fewest_newest_batches_that_reach_the_limit() {
        let one = history_weight(&Batch {
            revision: Revision(1),
            changes: [put("a", "1")].into(),
            hash: RollingHash(0),
        });
        let mut state = State::empty(2 * one);
        for _ in 0..5 {
            committed(&mut state, vec![put("a", "1")]);
        }
        let loaded = state.loaded();
        assert_eq!(loaded.history.iter().map(|batch| batch.revision.0).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(state.since(Revision(5), 9), Ok(vec![]));
        assert_eq!(state.since(Revision(3), 1).unwrap()[0].revision, Revision(4));
        assert_eq!(
            state.since(Revision(2), 9),
            Err(StoreError::Compacted { asked: Revision(2), oldest: Revision(3) })
        );
        assert_eq!(
            state.since(Revision(6), 9),
            Err(StoreError::Ahead { asked: Revision(6), revision: Revision(5) })
        );
        assert_eq!(loaded.hash_before_history.after(Revision(4), &[put("a", "1")]), loaded.history[0].hash);
    }

    #[test]
    fn history_that_is_needed_stays_until_it_is_not() {
        let mut state = State::empty(1);
        state.need_after(Revision(1));
        for _ in 0..4 {
            committed(&mut state, vec![put("a", "1")]);
        }
        assert_eq!(state.loaded().history.first().map(|batch| batch.revision), Some(Revision(2)));
        state.need_after(Revision(3));
        committed(&mut state, vec![put("a", "1")]);
        assert_eq!(state.loaded().history.first().map(|batch| batch.revision), Some(Revision(4)));
    }

    #[test]
    fn records_are_walked_from_anywhere() {
        let mut state = State::empty(1024);
        committed(&mut state, vec![put("b", "1"), put("a", "1"), put("c", "1")]);
        let after = |key: Option<Key>| {
            state.records_after(key.as_ref()).map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(after(None), ["a", "b", "c"]);
        assert_eq!(after(Some("a".into())), ["b", "c"]);
        assert_eq!(after(Some("bb".into())), ["c"]);
    }

    #[test]
    fn the_records_digest_forgets_what_is_gone() {
        let mut state = State::empty(1024);
        committed(&mut state, vec![put("a", "1")]);
        let with_a = Staged::on(&state).records_digest();
        committed(&mut state, vec![put("b", "1")]);
        committed(&mut state, vec![put("b", "2"), put("c", "1")]);
        committed(&mut state, vec![Change::Delete { key: "b".into() }, Change::Delete { key: "c".into() }]);
        assert_eq!(Staged::on(&state).records_digest(), with_a);
        assert_eq!(Staged::on(&State::restored(state.loaded(), vec![], 1024)).records_digest(), with_a);
    }
}
