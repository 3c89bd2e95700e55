//! When all records are written anew, and which of them go with which group. Pure.
//!
//! ```text
//!  resting ──enough history after the base──▶ paging: a page of records with each group ──none left──┐
//!     ▲                                                                                              ▼
//!     └──nothing left── clearing: pieces that are not the base's go with each group ◀── the new base goes with a group
//! ```
//!
//! A snapshot that is begun at revision R becomes the base R when all its pages are durable: each went with an earlier
//! group. Until then the old base stands, and so does the journal after it (`State::need_after`). A page shows the
//! records as it finds them, so some are newer than R. The journal after R, which is replayed on them, makes them the
//! same whatever they have seen of it: it sets what it puts, and removes what it deletes.
//!
//! A store that is not closed, or is cut off anywhere, therefore opens as one that is closed. Pages of a snapshot that
//! was cut off are cleared away before its number is used again.

use super::super::{
    Key,
    state::{Group, State},
};
use super::layout::{self, Base, Write};
use super::read::Contents;
use super::snapshot;

/// The part of the history that a store keeps anyway, after which a snapshot is begun.
const PART: usize = 4;

/// A group that weighs more goes alone: what is written at once stays small (`committer`).
const ALONE: usize = 128 << 10;

/// What goes with a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Nothing,
    /// A page of the new snapshot.
    Page(Vec<Write>),
    /// A new base, all of whose pages are durable.
    Base(Base),
    /// Some of the pieces that are not the base's.
    Clear,
}

/// The base, and the way to the next one.
#[derive(Debug)]
pub(super) struct Checkpoints {
    base: Base,
    /// What the history after the base weighs.
    since: usize,
    /// How much of that begins a snapshot.
    every: usize,
    /// How much goes into a page.
    page: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The disk has format 1 and does not name its base.
    Unmarked,
    Clearing,
    Resting,
    Paging {
        next: Base,
        /// The last key that has been written.
        after: Option<Key>,
        /// What the history weighed that the next base makes unneeded.
        covered: usize,
    },
}

impl Checkpoints {
    /// Of a store that was opened, and keeps so much history.
    pub(super) fn new(opened: &Contents, history_bytes: usize) -> Self {
        let later = opened.groups.iter().filter(|group| group.first > opened.base.revision);
        Self {
            base: opened.base,
            since: later.map(|group| group.weight).sum(),
            every: history_bytes / PART,
            page: snapshot::PAGE,
            phase: if opened.is_marked { Phase::Clearing } else { Phase::Unmarked },
        }
    }

    /// The base on the disk, once the last step is.
    pub(super) const fn base(&self) -> Base {
        self.base
    }

    /// What goes with a group, which is decided on `state` and is to be written.
    pub(super) fn next(&mut self, state: &State, group: Group) -> Step {
        let before = self.since;
        self.since += group.weight;
        if group.weight > ALONE {
            return Step::Nothing;
        }
        match std::mem::replace(&mut self.phase, Phase::Clearing) {
            Phase::Unmarked => Step::Base(self.base),
            Phase::Clearing => Step::Clear,
            Phase::Resting if before < self.every => {
                self.phase = Phase::Resting;
                Step::Nothing
            }
            Phase::Resting => {
                let next = Base { revision: state.revision(), snapshot: self.base.snapshot + 1, pages: 0 };
                self.go_on(state, next, None, before)
            }
            Phase::Paging { next, after, covered } => self.go_on(state, next, after, covered),
        }
    }

    /// There was nothing left to clear.
    pub(super) fn cleared(&mut self) {
        self.phase = Phase::Resting;
    }

    /// The next page, or the base that they make.
    fn go_on(&mut self, state: &State, next: Base, after: Option<Key>, covered: usize) -> Step {
        let records = state.records_after(after.as_ref());
        let records = records.map(|(key, held)| (key, &held.value, held.mod_revision));
        let Some((payload, last)) = snapshot::page(records, self.page) else {
            self.base = next;
            self.since -= covered;
            self.phase = Phase::Clearing;
            return Step::Base(next);
        };
        let pieces = layout::page(next.snapshot, next.pages, &payload);
        let next = Base { pages: next.pages + 1, ..next };
        self.phase = Phase::Paging { next, after: Some(last), covered };
        Step::Page(pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use ::sled::IVec;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::super::{Change, Loaded, journal::Head, state::Staged};
    use super::super::layout::{FORMAT, Part, Writes};
    use super::super::read::{self, Pieces};
    use super::*;

    /// Small, so that snapshots are made all the time and have several pages.
    const HISTORY: usize = 800;
    const PAGE: usize = 150;

    /// What sled would hold.
    #[derive(Default)]
    struct Image(BTreeMap<(Part, Vec<u8>), Vec<u8>>);

    impl Image {
        fn write(&mut self, part: Part, (key, value): &Write) {
            let key = (part, key.to_vec());
            match value {
                Some(value) => self.0.insert(key, value.to_vec()),
                None => self.0.remove(&key),
            };
        }

        /// As the database tells it.
        fn stale(&self, snapshot: u64) -> Vec<Write> {
            let ours = snapshot.to_be_bytes();
            let stale =
                self.0.keys().filter(|(part, key)| *part == Part::Snapshots && !key.starts_with(&ours));
            stale.take(2).map(|(_, key)| (IVec::from(&key[..]), None)).collect()
        }
    }

    impl Pieces for Image {
        fn scan(
            &self,
            part: Part,
            prefix: &[u8],
        ) -> impl Iterator<Item = Result<(IVec, IVec), ::sled::Error>> {
            let pieces = self.0.range((part, prefix.to_vec())..);
            let pieces = pieces.take_while(move |((of, key), _)| *of == part && key.starts_with(prefix));
            pieces.map(|((_, key), value)| Ok((IVec::from(&key[..]), IVec::from(&value[..]))))
        }
    }

    /// A store without a disk and a thread.
    struct Model {
        image: Image,
        state: State,
        checkpoints: Checkpoints,
    }

    impl Model {
        fn new() -> Self {
            let mut image = Image::default();
            for write in layout::meta(Head::default(), Base::default()) {
                image.write(Part::Meta, &write);
            }
            Self::open(image)
        }

        fn open(image: Image) -> Self {
            let contents = read::read(Path::new("image"), &image, FORMAT).unwrap();
            let mut checkpoints = Checkpoints::new(&contents, HISTORY);
            checkpoints.page = PAGE;
            let mut state = State::restored(contents.loaded, contents.groups, HISTORY);
            state.need_after(checkpoints.base().revision);
            Self { image, state, checkpoints }
        }

        /// What whoever opens the store now finds.
        fn found(&self) -> Loaded {
            read::read(Path::new("image"), &self.image, FORMAT).unwrap().loaded
        }

        /// Commits a group, looks after every write at what a cut would leave, and is cut off after so many.
        fn commit(mut self, commits: Vec<Vec<Change>>, cut: Option<usize>) -> Self {
            let mut staged = Staged::on(&self.state);
            for changes in commits {
                staged.stage(&self.state, changes, &[]).unwrap();
            }
            let Some(group) = Group::of(staged.batches()) else { return self };
            let Writes { journal, mut meta, .. } = layout::writes(&self.state, &staged);
            let snapshots = match self.checkpoints.next(&self.state, group) {
                Step::Nothing => Vec::new(),
                Step::Page(pieces) => pieces,
                Step::Base(base) => {
                    meta.extend(layout::base(base));
                    Vec::new()
                }
                Step::Clear => {
                    let stale = self.image.stale(self.checkpoints.base().snapshot);
                    if stale.is_empty() {
                        self.checkpoints.cleared();
                    }
                    stale
                }
            };
            let before = self.state.loaded();
            for (written, write) in snapshots.iter().enumerate() {
                if cut == Some(written) {
                    return Self::open(self.image);
                }
                self.image.write(Part::Snapshots, write);
                assert_eq!(self.found(), before);
            }
            if cut.is_some() {
                return Self::open(self.image);
            }
            journal.iter().for_each(|write| self.image.write(Part::Journal, write));
            meta.iter().for_each(|write| self.image.write(Part::Meta, write));
            self.state.publish(staged);
            assert_eq!(self.found(), self.state.loaded());
            self.state.need_after(self.checkpoints.base().revision);
            self
        }

        fn pieces(&self, part: Part) -> usize {
            self.image.scan(part, &[]).count()
        }
    }

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.into(), value: Bytes::from(vec![b'x'; bytes]) }
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            12 => ("[a-j]", 0..100_usize).prop_map(|(key, bytes)| put(&key, bytes)),
            5 => "[a-j]".prop_map(|key| Change::Delete { key: key.into() }),
            // Several pieces.
            1 => Just(put("large", 5000)),
        ]
    }

    fn group() -> impl Strategy<Value = (Vec<Vec<Change>>, Option<usize>)> {
        let commit = proptest::collection::vec(change(), 1..3);
        let cut = prop_oneof![6 => Just(None::<usize>), 1 => (0..4_usize).prop_map(Some)];
        (proptest::collection::vec(commit, 0..4), cut)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_a_cut_leaves_is_the_last_durable_head(groups in proptest::collection::vec(group(), 1..60)) {
            let mut model = Model::new();
            for (commits, cut) in groups {
                model = model.commit(commits, cut);
            }
            prop_assert_eq!(model.found(), model.state.loaded());
        }
    }

    #[test]
    fn bases_follow_each_other_and_what_they_replace_goes() {
        let mut model = Model::new();
        for n in 0..400 {
            model = model.commit(vec![vec![put(&format!("k{}", n % 10), n % 100)]], None);
        }
        let base = model.checkpoints.base();
        assert!(base.snapshot > 5 && base.pages > 1, "{base:?}");
        assert!(base.revision.0 > 350, "{base:?}");
        // At most an old snapshot and a new one.
        assert!(model.pieces(Part::Snapshots) <= 30, "{} pieces", model.pieces(Part::Snapshots));
        assert!(model.pieces(Part::Journal) < 60, "{} groups", model.pieces(Part::Journal));
    }

    #[test]
    fn a_large_group_goes_alone_and_a_snapshot_goes_on_after_it() {
        let mut model = Model::new();
        model = model.commit(vec![vec![put("a", 300)]], None).commit(vec![vec![put("b", 300)]], None);
        model = model.commit(vec![vec![put("b", 300)]], None);
        let pages = model.pieces(Part::Snapshots);
        assert!(pages > 0);
        model = model.commit((0..5).map(|_| vec![put("c", 30_000)]).collect(), None);
        assert_eq!(model.pieces(Part::Snapshots), pages);
        for _ in 0..20 {
            model = model.commit(vec![vec![put("b", 1)]], None);
        }
        assert!(model.checkpoints.base().snapshot > 0);
    }

    #[test]
    fn a_snapshot_is_begun_when_enough_came_after_the_base_and_named_when_it_is_whole() {
        let contents = read::read(Path::new("image"), &Model::new().image, FORMAT).unwrap();
        let mut checkpoints = Checkpoints::new(&contents, 4 * 100);
        checkpoints.page = 1;
        let mut state = State::empty(1 << 20);
        let mut staged = Staged::on(&state);
        staged.stage(&state, vec![put("a", 1), put("b", 1)], &[]).unwrap();
        state.publish(staged);
        // 66 bytes of history.
        let mut staged = Staged::on(&state);
        staged.stage(&state, vec![put("a", 1)], &[]).unwrap();
        let group = Group::of(staged.batches()).unwrap();

        let mut next = || checkpoints.next(&state, group);
        assert_eq!(next(), Step::Clear);
        checkpoints.cleared();
        let mut next = || checkpoints.next(&state, group);
        assert_eq!(next(), Step::Nothing);
        assert!(matches!(next(), Step::Page(_)));
        assert!(matches!(next(), Step::Page(_)));
        let base = Base { revision: state.revision(), snapshot: 1, pages: 2 };
        assert_eq!(next(), Step::Base(base));
        assert_eq!(next(), Step::Clear);
        // The snapshot was begun with the third group, of six.
        assert_eq!((checkpoints.base(), checkpoints.since), (base, 4 * group.weight));
    }
}
