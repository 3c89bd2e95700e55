//! A group of batches as bytes, and whether what was read back belongs together. Pure; the same in every store.
//!
//! ```text
//!  group = rolling hash before it u64, then of each batch: length u32, encoded changes    (integers little endian)
//!  head  = revision u64, rolling hash u64, records digest u64
//! ```

use super::{
    Batch, Loaded, Record, Revision, RollingHash, digest,
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
        let changes = digest::encode(&batch.changes);
        // A commit's limits keep it far below.
        bytes.extend_from_slice(&(changes.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&changes);
    }
    bytes
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
    if digest_of(&records) != head.records_digest {
        return Err(format!("its records are not those of revision {}", head.revision));
    }
    let (oldest, hash_before_history) = match groups.first() {
        Some((batches, before)) => (batches[0].revision.0.saturating_sub(1), *before),
        None => (head.revision.0, head.hash),
    };
    let mut end = (Revision(oldest), hash_before_history);
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
