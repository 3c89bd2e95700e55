//! How contents become sled's keys and values, and back. Pure.
//!
//! ```text
//!  tree      name                 payload
//!  records   key, NUL             mod revision u64, value
//!  journal   first revision (BE)  rolling hash before it u64, then of each batch of the group:
//!                                 length u32, encoded changes
//!  meta      "head"               revision u64, rolling hash u64, records digest u64
//!  meta      "format"             u32, not sealed: any version can read it
//!
//!  sealed  = crc32 of name and payload, length of payload u32, payload        (integers little endian)
//!  stored  = sealed, cut into pieces; piece n under name + n as u16 (BE)
//! ```
//!
//! Pieces, because sled writes a tree node that outgrows a quarter of its segment to a file of its own,
//! which neither sled nor we fsync. Seventeen pieces (sled's largest leaf) stay well below.

use bytes::Bytes;

use super::super::{
    Batch, Key, Record, Revision, RollingHash, digest,
    state::{Group, Staged, State},
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

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) hash: RollingHash,
    pub(super) records_digest: u64,
}

impl Head {
    pub(super) fn writes(self) -> Vec<Write> {
        let mut payload = Vec::with_capacity(24);
        payload.extend_from_slice(&self.revision.0.to_le_bytes());
        payload.extend_from_slice(&self.hash.0.to_le_bytes());
        payload.extend_from_slice(&self.records_digest.to_le_bytes());
        pieces(HEAD, &payload).collect()
    }

    /// From a payload.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (revision, rest) = number(payload)?;
        let (hash, rest) = number(rest)?;
        let (records_digest, rest) = number(rest)?;
        rest.is_empty().then_some(Self {
            revision: Revision(revision),
            hash: RollingHash(hash),
            records_digest,
        })
    }
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
    if let Some(group) = Group::of(staged.batches()) {
        let mut payload = Vec::with_capacity(journal_len(group));
        payload.extend_from_slice(&state.hash().0.to_le_bytes());
        for batch in staged.batches() {
            let changes = digest::encode(&batch.changes);
            payload.extend_from_slice(&(changes.len() as u32).to_le_bytes());
            payload.extend_from_slice(&changes);
        }
        writes.journal.extend(pieces(&group.first.0.to_be_bytes(), &payload));
    }
    for group in state.outgrown(staged) {
        let name = group.first.0.to_be_bytes();
        let count = piece_count(journal_len(group));
        writes.journal.extend((0..count).map(|piece| (piece_key(&name, piece), None)));
    }
    let head =
        Head { revision: staged.revision(), hash: staged.hash(), records_digest: staged.records_digest() };
    writes.meta = head.writes();
    writes
}

/// A record from its name and payload; `None` if they are none.
pub(super) fn record(name: &[u8], payload: &[u8]) -> Option<Record> {
    let key = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    let (revision, value) = number(payload)?;
    Some(Record { key: key.into(), value: Bytes::copy_from_slice(value), mod_revision: Revision(revision) })
}

/// A group of batches, and the hash before it, from its name and payload; `None` if they are none.
pub(super) fn group(name: &[u8], payload: &[u8]) -> Option<(Vec<Batch>, RollingHash)> {
    let mut revision = Revision(u64::from_be_bytes(name.try_into().ok()?));
    let (before, mut rest) = number(payload)?;
    let mut hash = RollingHash(before);
    let mut batches = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (encoded, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        hash = hash.after_encoded(revision, encoded);
        batches.push(Batch { revision, changes: digest::decode(encoded)?.into(), hash });
        revision = revision.next();
        rest = tail;
    }
    (rest.is_empty() && !batches.is_empty()).then_some((batches, RollingHash(before)))
}

const fn journal_len(group: Group) -> usize {
    8 + 4 * group.batches + group.encoded
}

/// A sled key as its name and the number of the piece.
pub(super) fn split(key: &[u8]) -> Option<(&[u8], usize)> {
    let (name, piece) = key.split_last_chunk::<2>()?;
    Some((name, usize::from(u16::from_be_bytes(*piece))))
}

/// The payload of what was sealed under `name`; `None` if it is damaged.
pub(super) fn unseal<'a>(name: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, rest) = sealed.split_first_chunk::<4>()?;
    let (len, payload) = rest.split_first_chunk::<4>()?;
    let sound = u32::from_le_bytes(*len) as usize == payload.len()
        && u32::from_le_bytes(*crc) == crc32(name, payload);
    sound.then_some(payload)
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

fn pieces(name: &[u8], payload: &[u8]) -> impl Iterator<Item = Write> {
    let mut sealed = Vec::with_capacity(SEAL + payload.len());
    sealed.extend_from_slice(&crc32(name, payload).to_le_bytes());
    sealed.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    sealed.extend_from_slice(payload);
    let pieces: Vec<_> = sealed.chunks(PIECE).map(<[u8]>::to_vec).collect();
    let name = name.to_vec();
    pieces.into_iter().enumerate().map(move |(number, piece)| (piece_key(&name, number), Some(piece)))
}

const SEAL: usize = 8;

const fn piece_count(payload: usize) -> usize {
    (SEAL + payload).div_ceil(PIECE)
}

fn piece_key(name: &[u8], number: usize) -> Vec<u8> {
    // A commit's limits keep the number below a hundred.
    [name, &(number as u16).to_be_bytes()].concat()
}

fn crc32(name: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(payload);
    hasher.finalize()
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::super::Change, *};

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
            assert_eq!(written.len(), piece_count(journal_len(Group::of(&batches).unwrap())));
            state.publish(staged);
        }
    }

    #[test]
    fn a_flipped_bit_a_cut_or_another_name_breaks_the_seal() {
        let (_, sealed) = pieces(b"name", b"payload").next().unwrap();
        let sealed = sealed.unwrap();
        assert_eq!(unseal(b"name", &sealed), Some(&b"payload"[..]));
        assert_eq!(unseal(b"nama", &sealed), None);
        assert_eq!(unseal(b"name", &sealed[..sealed.len() - 1]), None);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"name", &flipped), None, "bit {bit}");
        }
    }
}
