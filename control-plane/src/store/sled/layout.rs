//! How contents become sled's keys and values, and back. Pure.
//!
//! ```text
//!  tree      name                 payload
//!  records   key, NUL             mod revision u64, value
//!  journal   first revision (BE)  group (`journal`)
//!  meta      "head"               head (`journal`)
//!  meta      "format"             u32, not sealed: any version can read it
//!
//!  stored = sealed payload, cut into pieces; piece n under name + n as u16 (BE)
//! ```
//!
//! Pieces, because sled writes a tree node that outgrows a quarter of its segment to a file of its own,
//! which neither sled nor we fsync. Seventeen pieces (sled's largest leaf) stay well below.

use bytes::Bytes;

use super::super::{
    Batch, Key, Record, Revision, RollingHash, journal, seal,
    state::{Staged, State},
};

/// The version of this layout.
pub(super) const FORMAT: u32 = 1;
/// The largest value that sled is given.
pub(super) const PIECE: usize = 4096;

/// A sled key, and its new value or `None` to remove it.
pub(super) type Write = (Vec<u8>, Option<Vec<u8>>);

/// Everything that one group of commits writes.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) records: Vec<Write>,
    pub(super) journal: Vec<Write>,
    pub(super) meta: Vec<Write>,
}

/// The name of the head in `meta`.
pub(super) const HEAD: &[u8] = b"head";
/// The name of the format in `meta`.
pub(super) const FORMAT_NAME: &[u8] = b"format";

/// What makes `staged`, decided on `state`, durable.
pub(super) fn writes(state: &State, staged: &Staged) -> Writes {
    let mut writes = Writes::default();
    for (key, held) in staged.records() {
        let name = record_name(key);
        let old = state.held(key).map_or(0, |held| piece_count(8 + held.value.len()));
        let mut new = 0;
        if let Some(held) = held {
            let payload = [&held.mod_revision.0.to_le_bytes()[..], &held.value].concat();
            new = piece_count(payload.len());
            writes.records.extend(pieces(&name, &payload));
        }
        writes.records.extend((new..old).map(|piece| (piece_key(&name, piece), None)));
    }
    if !staged.batches().is_empty() {
        writes.journal.extend(group_writes(state.hash(), staged.batches()));
    }
    for group in state.outgrown(staged) {
        let name = group.first.0.to_be_bytes();
        let count = piece_count(journal::encoded_len(group));
        writes.journal.extend((0..count).map(|piece| (piece_key(&name, piece), None)));
    }
    writes.meta = head(journal::Head::after(staged));
    writes
}

/// What makes a head durable.
fn head(head: journal::Head) -> Vec<Write> {
    pieces(HEAD, &head.encode()).collect()
}

/// What makes a store of it that has a head.
pub(super) fn meta(of: journal::Head) -> Vec<Write> {
    let mut meta = head(of);
    meta.push((FORMAT_NAME.to_vec(), Some(FORMAT.to_le_bytes().to_vec())));
    meta
}

/// What makes a record durable that is new.
pub(super) fn record_writes(record: &Record) -> impl Iterator<Item = Write> + use<> {
    let payload = [&record.mod_revision.0.to_le_bytes()[..], &record.value].concat();
    pieces(&record_name(&record.key), &payload)
}

/// What makes a group of batches durable.
pub(super) fn group_writes(before: RollingHash, batches: &[Batch]) -> impl Iterator<Item = Write> + use<> {
    let first = batches.first().map_or(0, |batch| batch.revision.0);
    pieces(&first.to_be_bytes(), &journal::encode(before, batches))
}

/// A record from its name and payload; `None` if they are none.
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
pub(super) fn describe(tree: &str, name: &[u8]) -> String {
    match (tree, <[u8; 8]>::try_from(name)) {
        ("journal", Ok(revision)) => format!("journal/{}", u64::from_be_bytes(revision)),
        _ => format!("{tree}/{}", String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name))),
    }
}

fn record_name(key: &Key) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len() + 1);
    name.extend_from_slice(key.as_bytes());
    name.push(0);
    name
}

fn pieces(name: &[u8], payload: &[u8]) -> impl Iterator<Item = Write> + use<> {
    let pieces: Vec<_> = seal::seal(name, payload).chunks(PIECE).map(<[u8]>::to_vec).collect();
    let name = name.to_vec();
    pieces.into_iter().enumerate().map(move |(number, piece)| (piece_key(&name, number), Some(piece)))
}

const fn piece_count(payload: usize) -> usize {
    (seal::SEAL + payload).div_ceil(PIECE)
}

fn piece_key(name: &[u8], number: usize) -> Vec<u8> {
    // A commit's limits keep the number below a hundred.
    [name, &(number as u16).to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::super::{Change, seal::unseal, state::Group},
        *,
    };

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.into(), value: Bytes::from(vec![b'x'; bytes]) }
    }

    /// Commits one change to `state` and to `disk`.
    fn commit(state: &mut State, disk: &mut BTreeMap<Vec<u8>, Vec<u8>>, change: Change) {
        let mut staged = Staged::on(state);
        staged.stage(state, vec![change], &[]).unwrap();
        for (key, value) in writes(state, &staged).records {
            match value {
                Some(value) => disk.insert(key, value),
                None => disk.remove(&key),
            };
        }
        state.publish(staged);
    }

    #[test]
    fn a_shrinking_or_removed_record_leaves_no_piece_behind() {
        let (mut state, mut disk) = (State::empty(1 << 20), BTreeMap::new());
        commit(&mut state, &mut disk, put("a", 16 << 10));
        assert_eq!(disk.len(), 5);
        commit(&mut state, &mut disk, put("a", PIECE - 16));
        assert_eq!(disk.len(), 1);
        commit(&mut state, &mut disk, put("a", PIECE - 15));
        assert_eq!(disk.len(), 2);
        commit(&mut state, &mut disk, Change::Delete { key: "a".into() });
        assert_eq!(disk.len(), 0);
    }

    #[test]
    fn a_record_reads_back_from_its_pieces() {
        let (mut state, mut disk) = (State::empty(1 << 20), BTreeMap::new());
        commit(&mut state, &mut disk, put("a/b", 10_000));
        let sealed = disk.values().flatten().copied().collect::<Vec<_>>();
        let (name, first) = split(disk.keys().next().unwrap()).unwrap();
        assert_eq!(first, 0);
        let record = record(name, unseal(name, &sealed).unwrap()).unwrap();
        assert_eq!(
            (record.key.as_str(), record.value.len(), record.mod_revision),
            ("a/b", 10_000, Revision(1))
        );
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
            let (name, _) = split(&written[0].0).unwrap();
            let sealed: Vec<u8> = written.iter().flat_map(|(_, piece)| piece.clone().unwrap()).collect();
            let (batches, before) = group(name, unseal(name, &sealed).unwrap()).unwrap();
            assert_eq!((&batches[..], before), (staged.batches(), state.hash()));
            assert_eq!(written.len(), piece_count(journal::encoded_len(Group::of(&batches).unwrap())));
            state.publish(staged);
        }
    }
}
