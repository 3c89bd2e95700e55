//! A group of batches as bytes, and whether what was read back belongs together. Pure; the same in every store.
//!
//! ```text
//!  group = rolling hash before it u64, then of each batch: length u32, encoded changes    (integers little endian)
//!  head  = revision u64, rolling hash u64, records digest u64
//! ```

use std::collections::BTreeMap;

use super::{
    Batch, Change, Key, Loaded, Record, Revision, RollingHash, digest,
    state::{Group, Staged},
};

/// How much goes into a group that is made of history, about.
const GROUP_BYTES: usize = 64 << 10;

/// Where a store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) hash: RollingHash,
    pub(super) records_digest: u64,
}

impl Head {
    /// After what was staged.
    pub(super) const fn after(staged: &Staged) -> Self {
        Self { revision: staged.revision(), hash: staged.hash(), records_digest: staged.records_digest() }
    }

    /// Of what was read.
    pub(super) fn of(loaded: &Loaded) -> Self {
        let Loaded { revision, hash, records, .. } = loaded;
        Self { revision: *revision, hash: *hash, records_digest: digest_of(records) }
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let Self { revision, hash, records_digest } = self;
        [revision.0, hash.0, records_digest].iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// The reverse; `None` if these bytes are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (revision, rest) = number(bytes)?;
        let (hash, rest) = number(rest)?;
        let (records_digest, rest) = number(rest)?;
        rest.is_empty().then_some(Self {
            revision: Revision(revision),
            hash: RollingHash(hash),
            records_digest,
        })
    }
}

/// A group of batches, after a hash.
pub(super) fn encode(before: RollingHash, batches: &[Batch]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(Group::of(batches).map_or(8, encoded_len));
    bytes.extend_from_slice(&before.0.to_le_bytes());
    for batch in batches {
        append(&mut bytes, &batch.changes);
    }
    bytes
}

/// Adds a batch to a group, and gives its encoded changes.
pub(super) fn append<'group>(group: &'group mut Vec<u8>, changes: &[Change]) -> &'group [u8] {
    // A commit's limits keep it far below.
    group.extend_from_slice(&(digest::encoded_len(changes) as u32).to_le_bytes());
    let start = group.len();
    digest::encode_to(group, changes);
    &group[start..]
}

/// How long [`encode`] makes it.
pub(super) const fn encoded_len(group: Group) -> usize {
    8 + 4 * group.batches + group.encoded
}

/// The reverse, of a group whose first batch has this revision; `None` if these bytes are none.
pub(super) fn decode(first: Revision, bytes: &[u8]) -> Option<(Vec<Batch>, RollingHash)> {
    let mut revision = first;
    let (before, mut rest) = number(bytes)?;
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

/// Everything that a store holds, if it belongs together; else what does not agree.
pub(super) fn assemble(
    head: Head,
    records: Vec<Record>,
    groups: Vec<(Vec<Batch>, RollingHash)>,
) -> Result<(Loaded, Vec<Group>), String> {
    let oldest = oldest(head, &groups);
    let hash_before_history = groups.first().map_or(head.hash, |(_, before)| *before);
    let mut end = (oldest, hash_before_history);
    for (batches, before) in &groups {
        // No group is empty, or it would not have been decoded.
        let (first, last) = (&batches[0], &batches[batches.len() - 1]);
        if (first.revision, *before) != (end.0.next(), end.1) {
            return Err(format!("batch {} does not follow batch {}", first.revision, end.0));
        }
        end = (last.revision, last.hash);
    }
    if end != (head.revision, head.hash) {
        return Err(format!("its journal ends elsewhere than at revision {}", head.revision));
    }
    if digest_of(&records) != head.records_digest {
        return Err(format!("its records are not those of revision {}", head.revision));
    }
    let sizes = groups.iter().filter_map(|(batches, _)| Group::of(batches)).collect();
    let loaded = Loaded {
        revision: head.revision,
        hash: head.hash,
        records,
        history: groups.into_iter().flat_map(|(batches, _)| batches).collect(),
        hash_before_history,
    };
    Ok((loaded, sizes))
}

/// The records at the head: those of revision `base`, changed by every later batch. Some of `records` may be newer than
/// `base`, and what was gone later may be missing: the batches do all that once more, with the same end.
pub(super) fn replay(
    base: Revision,
    head: Head,
    records: Vec<Record>,
    groups: &[(Vec<Batch>, RollingHash)],
) -> Result<Vec<Record>, String> {
    if base > head.revision {
        return Err(format!("its records are those of revision {base}, it is at revision {}", head.revision));
    }
    let oldest = oldest(head, groups);
    if oldest > base {
        return Err(format!(
            "its records are those of revision {base}, its journal begins after revision {oldest}"
        ));
    }
    let mut all: BTreeMap<Key, Record> =
        records.into_iter().map(|record| (record.key.clone(), record)).collect();
    let later = groups.iter().flat_map(|(batches, _)| batches).filter(|batch| batch.revision > base);
    for batch in later {
        for change in batch.changes.iter() {
            match change {
                Change::Put { key, value } => {
                    let record =
                        Record { key: key.clone(), value: value.clone(), mod_revision: batch.revision };
                    all.insert(key.clone(), record);
                }
                Change::Delete { key } => {
                    all.remove(key);
                }
            }
        }
    }
    Ok(all.into_values().collect())
}

/// The revision after which the journal begins.
fn oldest(head: Head, groups: &[(Vec<Batch>, RollingHash)]) -> Revision {
    // No group is empty, or it would not have been decoded.
    let first = groups.first().and_then(|(batches, _)| batches.first());
    first.map_or(head.revision, |batch| Revision(batch.revision.0.saturating_sub(1)))
}

/// The history as groups, each with the hash before it.
pub(super) fn regroup(loaded: &Loaded) -> impl Iterator<Item = (&[Batch], RollingHash)> {
    let mut before = loaded.hash_before_history;
    loaded.history.chunk_by(same_group()).map(move |batches| {
        let hash = before;
        before = batches.last().map_or(before, |last| last.hash);
        (batches, hash)
    })
}

/// Whether the next batch still belongs to the group of the one before it.
fn same_group() -> impl FnMut(&Batch, &Batch) -> bool {
    let mut bytes = 0;
    move |_, next| {
        bytes += digest::encoded_len(&next.changes);
        let fits = bytes <= GROUP_BYTES;
        if !fits {
            bytes = 0;
        }
        fits
    }
}

fn digest_of(records: &[Record]) -> u64 {
    records
        .iter()
        .fold(0, |all, record| all ^ digest::record(&record.key, &record.value, record.mod_revision))
}

/// A number, and what comes after it.
pub(super) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &str, value: &'static str) -> Change {
        Change::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()) }
    }

    fn delete(key: &str) -> Change {
        Change::Delete { key: key.into() }
    }

    fn record(key: &str, value: &'static str, revision: u64) -> Record {
        Record {
            key: key.into(),
            value: Bytes::from_static(value.as_bytes()),
            mod_revision: Revision(revision),
        }
    }

    /// Batches from this revision on, in groups of two.
    fn groups(first: u64, batches: Vec<Vec<Change>>) -> Vec<(Vec<Batch>, RollingHash)> {
        let batches: Vec<_> = (first..)
            .zip(batches)
            .map(|(revision, changes)| Batch {
                revision: Revision(revision),
                changes: changes.into(),
                hash: RollingHash(revision),
            })
            .collect();
        batches.chunks(2).map(|group| (group.to_vec(), RollingHash(0))).collect()
    }

    fn head(revision: u64) -> Head {
        Head { revision: Revision(revision), ..Head::default() }
    }

    #[test]
    fn only_batches_after_the_base_are_replayed() {
        let groups =
            groups(4, vec![vec![put("a", "4")], vec![put("b", "5")], vec![delete("c"), put("d", "6")]]);
        let records = vec![record("a", "1", 1), record("c", "3", 3)];
        let replayed = replay(Revision(4), head(6), records, &groups).unwrap();
        assert_eq!(replayed, [record("a", "1", 1), record("b", "5", 5), record("d", "6", 6)]);
    }

    #[test]
    fn records_that_are_newer_than_the_base_end_as_they_have_to() {
        let groups = groups(
            1,
            vec![
                vec![put("a", "1"), put("b", "1")],
                vec![delete("b"), put("c", "2")],
                vec![put("a", "3")],
                vec![delete("c")],
            ],
        );
        // As they are at revision 0, 1, 2, 3 and 4.
        let images = [
            vec![],
            vec![record("a", "1", 1), record("b", "1", 1)],
            vec![record("a", "1", 1), record("c", "2", 2)],
            vec![record("a", "3", 3), record("c", "2", 2)],
            vec![record("a", "3", 3)],
        ];
        for records in images {
            assert_eq!(replay(Revision(0), head(4), records, &groups).unwrap(), [record("a", "3", 3)]);
        }
    }

    #[test]
    fn a_base_without_the_journal_after_it_is_refused() {
        let groups = groups(3, vec![vec![put("a", "3")]]);
        let ahead = replay(Revision(4), head(3), vec![], &groups).unwrap_err();
        assert_eq!(ahead, "its records are those of revision 4, it is at revision 3");
        let gap = replay(Revision(1), head(3), vec![], &groups).unwrap_err();
        assert_eq!(gap, "its records are those of revision 1, its journal begins after revision 2");
        let nothing = replay(Revision(1), head(3), vec![], &[]).unwrap_err();
        assert_eq!(nothing, "its records are those of revision 1, its journal begins after revision 3");
        assert_eq!(replay(Revision(2), head(3), vec![], &groups).unwrap(), [record("a", "3", 3)]);
    }
}
