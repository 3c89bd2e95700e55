//! How contents become sled's keys and values, and back. Pure.
//!
//! ```text
//!  tree       name                         payload
//!  journal    first revision u64           group (`journal`)
//!  snapshots  snapshot u64, page u64       records (`snapshot`)
//!  meta       "head"                       head (`journal`)
//!  meta       "base"                       revision u64, snapshot u64, pages u64    (little endian)
//!  meta       "format"                     u32, not sealed: any version can read it
//!  records    key, NUL                     mod revision u64, value                  in a store that had format 1
//!
//!  stored = sealed payload, cut into pieces; piece n under name + n as u16     (numbers in names big endian)
//! ```
//!
//! What a store holds is the records of its base, changed by every group of the journal after it. So a commit writes
//! its group and the head, and no record; all of those are written anew now and then (`checkpoint`).
//!
//! Pieces, because sled writes a tree node that outgrows a quarter of its segment to a file of its own,
//! which neither sled nor we fsync. Seventeen pieces (sled's largest leaf) stay well below.

use ::sled::IVec;
use bytes::Bytes;

use super::super::{
    Batch, Record, Revision, RollingHash, journal, seal,
    state::{Staged, State},
};

/// The version of this layout.
pub(super) const FORMAT: u32 = 2;
/// The version that had every record by itself, as the head has it, and no base.
pub(super) const FORMAT_WITHOUT_BASE: u32 = 1;
/// The largest value that sled is given.
pub(super) const PIECE: usize = 4096;

/// A sled key, and its new value or `None` to remove it.
pub(super) type Write = (IVec, Option<IVec>);

/// Everything that is written with one group of commits.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) records: Vec<Write>,
    pub(super) snapshots: Vec<Write>,
    pub(super) journal: Vec<Write>,
    pub(super) meta: Vec<Write>,
}

/// One of the trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Records,
    Snapshots,
    Journal,
    Meta,
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Snapshots => "snapshots",
            Self::Journal => "journal",
            Self::Meta => "meta",
        }
    }
}

/// Which records are on the disk, to be changed by the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Base {
    /// They are those of this revision, some maybe of a later one: the journal after it makes all of them right.
    pub(super) revision: Revision,
    /// The snapshot that has them. There is none of number 0: it stands for `records`.
    pub(super) snapshot: u64,
    pub(super) pages: u64,
}

impl Base {
    fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.revision.0, self.snapshot, self.pages]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The reverse; `None` if these bytes are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (revision, rest) = journal::number(bytes)?;
        let (snapshot, rest) = journal::number(rest)?;
        let (pages, rest) = journal::number(rest)?;
        rest.is_empty().then_some(Self { revision: Revision(revision), snapshot, pages })
    }
}

/// The name of the head in `meta`.
pub(super) const HEAD: &[u8] = b"head";
/// The name of the base in `meta`.
pub(super) const BASE: &[u8] = b"base";
/// The name of the format in `meta`.
pub(super) const FORMAT_NAME: &[u8] = b"format";

/// What makes `staged`, decided on `state`, durable.
pub(super) fn writes(state: &State, staged: &Staged) -> Writes {
    let mut writes = Writes { meta: head(journal::Head::after(staged)), ..Writes::default() };
    if let Some(first) = staged.batches().first() {
        let before = state.hash().0.to_le_bytes();
        writes.journal = pieces(&first.revision.0.to_be_bytes(), &[&before[..], staged.encoded()]);
    }
    for group in state.outgrown(staged) {
        let name = group.first.0.to_be_bytes();
        let count = piece_count(journal::encoded_len(group));
        writes.journal.extend((0..count).map(|piece| (piece_key(&name, piece), None)));
    }
    writes
}

/// What makes a head durable.
fn head(head: journal::Head) -> Vec<Write> {
    pieces(HEAD, &[&head.encode()])
}

/// What makes a base durable, and the format that knows of it.
pub(super) fn base(base: Base) -> Vec<Write> {
    let mut writes = pieces(BASE, &[&base.encode()]);
    writes.push((FORMAT_NAME.into(), Some(IVec::from(&FORMAT.to_le_bytes()))));
    writes
}

/// What makes a store of it that has a head and the records of its base.
pub(super) fn meta(of: journal::Head, on: Base) -> Vec<Write> {
    let mut meta = head(of);
    meta.extend(base(on));
    meta
}

/// What makes a page of a snapshot durable.
pub(super) fn page(snapshot: u64, page: u64, payload: &[u8]) -> Vec<Write> {
    let name = [snapshot.to_be_bytes(), page.to_be_bytes()].concat();
    pieces(&name, &[payload])
}

/// What makes a group of batches durable.
pub(super) fn group_writes(before: RollingHash, batches: &[Batch]) -> Vec<Write> {
    let first = batches.first().map_or(0, |batch| batch.revision.0);
    pieces(&first.to_be_bytes(), &[&journal::encode(before, batches)])
}

/// A record of format 1 from its name and payload; `None` if they are none.
pub(super) fn record(name: &[u8], payload: &[u8]) -> Option<Record> {
    let key = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    let (revision, value) = journal::number(payload)?;
    Some(Record { key: key.into(), value: Bytes::copy_from_slice(value), mod_revision: Revision(revision) })
}

/// A group of batches, and the hash before it, from its name and payload; `None` if they are none.
pub(super) fn group(name: &[u8], payload: &[u8]) -> Option<(Vec<Batch>, RollingHash)> {
    journal::decode(Revision(u64::from_be_bytes(name.try_into().ok()?)), payload)
}

/// A sled key as its name and the number of the piece.
pub(super) fn split(key: &[u8]) -> Option<(&[u8], usize)> {
    let (name, piece) = key.split_last_chunk::<2>()?;
    Some((name, usize::from(u16::from_be_bytes(*piece))))
}

/// A name for people.
pub(super) fn describe(part: Part, name: &[u8]) -> String {
    let numbers: Vec<_> =
        name.chunks(8).filter_map(|number| Some(u64::from_be_bytes(number.try_into().ok()?))).collect();
    match (part, &numbers[..], name.len()) {
        (Part::Journal, [revision], 8) => format!("journal/{revision}"),
        (Part::Snapshots, [snapshot, page], 16) => format!("snapshots/{snapshot}/{page}"),
        _ => format!("{}/{}", part.name(), String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name))),
    }
}

fn pieces(name: &[u8], payload: &[&[u8]]) -> Vec<Write> {
    let sealed = seal::seal_all(name, payload);
    let pieces = sealed.chunks(PIECE).enumerate();
    pieces.map(|(number, piece)| (piece_key(name, number), Some(IVec::from(piece)))).collect()
}

const fn piece_count(payload: usize) -> usize {
    (seal::SEAL + payload).div_ceil(PIECE)
}

fn piece_key(name: &[u8], number: usize) -> IVec {
    // A commit's limits keep the number below a hundred.
    IVec::from([name, &(number as u16).to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{Change, seal::unseal, state::Group},
        *,
    };

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.into(), value: Bytes::from(vec![b'x'; bytes]) }
    }

    fn joined(writes: &[Write]) -> Vec<u8> {
        writes.iter().flat_map(|(_, piece)| piece.as_ref().unwrap().to_vec()).collect()
    }

    #[test]
    fn a_group_reads_back_with_its_hashes() {
        let mut state = State::empty(1 << 20);
        state.publish(Staged::on(&state));
        for n in 0..2 {
            let mut staged = Staged::on(&state);
            for change in [put("a", n), put("b", 5000), Change::Delete { key: "a".into() }] {
                staged.stage(&state, vec![change], &[]).unwrap();
            }
            let written = writes(&state, &staged).journal;
            assert_eq!(written, group_writes(state.hash(), staged.batches()));
            let (name, _) = split(&written[0].0).unwrap();
            let sealed = joined(&written);
            let (batches, before) = group(name, unseal(name, &sealed).unwrap()).unwrap();
            assert_eq!((&batches[..], before), (staged.batches(), state.hash()));
            assert_eq!(written.len(), piece_count(journal::encoded_len(Group::of(&batches).unwrap())));
            state.publish(staged);
        }
    }

    #[test]
    fn a_group_that_goes_leaves_no_piece_behind() {
        let mut state = State::empty(1);
        let mut staged = Staged::on(&state);
        staged.stage(&state, vec![put("a", 10_000)], &[]).unwrap();
        let made: Vec<_> = writes(&state, &staged).journal.into_iter().map(|(key, _)| key).collect();
        assert_eq!(made.len(), 3);
        state.publish(staged);
        let mut staged = Staged::on(&state);
        staged.stage(&state, vec![put("a", 1)], &[]).unwrap();
        let journal = writes(&state, &staged).journal;
        let gone: Vec<_> =
            journal.into_iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key).collect();
        assert_eq!(gone, made);
    }

    #[test]
    fn a_base_reads_back() {
        let base = Base { revision: Revision(7), snapshot: 3, pages: 2 };
        assert_eq!(Base::decode(&base.encode()), Some(base));
        assert_eq!(Base::decode(&base.encode()[1..]), None);
    }

    #[test]
    fn names_are_told_as_people_read_them() {
        assert_eq!(describe(Part::Journal, &7_u64.to_be_bytes()), "journal/7");
        let page = page(1, 5, b"x");
        assert_eq!(describe(Part::Snapshots, split(&page[0].0).unwrap().0), "snapshots/1/5");
        assert_eq!(describe(Part::Records, b"leases/a\0"), "records/leases/a");
        assert_eq!(describe(Part::Meta, HEAD), "meta/head");
    }
}
