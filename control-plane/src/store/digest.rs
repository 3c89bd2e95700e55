//! Two short fingerprints: of a store's way (every batch so far) and of where it stands (every record).

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Change, Revision};

/// Names a history: equal at equal revisions only if every batch up to there was equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RollingHash(pub u64);

impl RollingHash {
    /// The hash after one more batch.
    pub fn after(self, revision: Revision, changes: &[Change]) -> Self {
        self.after_encoded(revision, &encode(changes))
    }

    /// The same for changes that are encoded already.
    pub(super) fn after_encoded(self, revision: Revision, changes: &[u8]) -> Self {
        Self(short(&[&self.0.to_le_bytes(), &revision.0.to_le_bytes(), changes]))
    }
}

impl fmt::Display for RollingHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The fingerprint of one record. Those of all records, XORed, name the whole set, in any order.
pub(super) fn record(key: &str, value: &[u8], mod_revision: Revision) -> u64 {
    short(&[&mod_revision.0.to_le_bytes(), &length(key.len()), key.as_bytes(), value])
}

/// Changes as bytes: one form for hashing and for the journal.
///
/// ```text
/// put    = 1, key length u16, key, value length u32, value
/// delete = 2, key length u16, key            (integers little endian)
/// ```
pub(super) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(changes));
    encode_to(&mut out, changes);
    out
}

/// The same behind what is there already.
pub(super) fn encode_to(out: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        let key = change.key();
        out.push(match change {
            Change::Put { .. } => 1,
            Change::Delete { .. } => 2,
        });
        // Commits with longer keys are refused at the door.
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        if let Change::Put { value, .. } = change {
            out.extend_from_slice(&length(value.len()));
            out.extend_from_slice(value);
        }
    }
}

/// How long [`encode`] makes them.
pub(super) fn encoded_len(changes: &[Change]) -> usize {
    let fixed = changes.iter().map(|change| match change {
        Change::Put { .. } => 7,
        Change::Delete { .. } => 3,
    });
    fixed.sum::<usize>() + super::commit::weight(changes)
}

/// The reverse of [`encode`]; `None` if these are not encoded changes.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let key = std::str::from_utf8(key).ok()?.into();
        bytes = rest;
        changes.push(match tag {
            1 => {
                let (len, rest) = bytes.split_first_chunk::<4>()?;
                let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
                bytes = rest;
                Change::Put { key, value: bytes::Bytes::copy_from_slice(value) }
            }
            2 => Change::Delete { key },
            _ => return None,
        });
    }
    Some(changes)
}

const fn length(len: usize) -> [u8; 4] {
    (len as u32).to_le_bytes()
}

fn short(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = Change> {
        let put = ("[a-z/]{1,40}", proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(key, value)| Change::Put { key: key.into(), value: Bytes::from(value) });
        let delete = "[a-z/]{1,40}".prop_map(|key| Change::Delete { key: key.into() });
        prop_oneof![put, delete]
    }

    proptest! {
        #[test]
        fn encoded_changes_decode_to_themselves(changes in proptest::collection::vec(change(), 0..20)) {
            let encoded = encode(&changes);
            prop_assert_eq!(encoded.len(), encoded_len(&changes));
            prop_assert_eq!(decode(&encoded), Some(changes));
        }

        #[test]
        fn decoding_arbitrary_bytes_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn the_rolling_hash_depends_on_revision_content_and_past() {
        let put = [Change::Put { key: "a".into(), value: Bytes::from_static(b"1") }];
        let delete = [Change::Delete { key: "a".into() }];
        let first = RollingHash::default().after(Revision(1), &put);
        assert_ne!(first, RollingHash::default().after(Revision(2), &put));
        assert_ne!(first, RollingHash::default().after(Revision(1), &delete));
        assert_ne!(first.after(Revision(2), &put), RollingHash::default().after(Revision(2), &put));
    }

    /// Tokens held by agents name this hash, and journals on disk hold it: it must never change.
    #[test]
    fn the_rolling_hash_is_what_it_always_was() {
        let put = [Change::Put { key: "a".into(), value: Bytes::from_static(b"1") }];
        assert_eq!(RollingHash::default().after(Revision(1), &put).to_string(), "09a32591ef2edc7d");
    }
}
