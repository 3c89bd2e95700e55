//! Records, many at a time, as the payload of a page. Pure.
//!
//! ```text
//!  page   = records, in the order of their keys
//!  record = length of key u16, key, mod revision u64, length of value u32, value     (integers little endian)
//! ```
//!
//! Many at a time, because what a write costs sled hardly depends on its length.

use bytes::Bytes;

use super::super::{Key, Record, Revision, journal};

/// How much goes into a page, about. With a group of commits beside it, it fits into one of sled's segments.
pub(super) const PAGE: usize = 64 << 10;

/// The next page, of as many records as fill `bytes`, and the last key on it; `None` if there is no record left.
pub(super) fn page<'records>(
    records: impl Iterator<Item = (&'records Key, &'records Bytes, Revision)>,
    bytes: usize,
) -> Option<(Vec<u8>, Key)> {
    let mut payload = Vec::new();
    let mut last = None;
    for (key, value, mod_revision) in records {
        // A commit's limits keep both lengths far below.
        payload.extend_from_slice(&(key.len() as u16).to_le_bytes());
        payload.extend_from_slice(key.as_bytes());
        payload.extend_from_slice(&mod_revision.0.to_le_bytes());
        payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
        payload.extend_from_slice(value);
        last = Some(key);
        if payload.len() >= bytes {
            break;
        }
    }
    Some((payload, last?.clone()))
}

/// The records of a page; `None` if this is none.
pub(super) fn records(mut payload: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !payload.is_empty() {
        let (len, rest) = payload.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let (mod_revision, rest) = journal::number(rest)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        records.push(Record {
            key: std::str::from_utf8(key).ok()?.into(),
            value: Bytes::copy_from_slice(value),
            mod_revision: Revision(mod_revision),
        });
        payload = rest;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let value = proptest::collection::vec(any::<u8>(), 0..300);
        ("[a-z/]{1,40}", value, any::<u64>()).prop_map(|(key, value, revision)| Record {
            key: key.into(),
            value: value.into(),
            mod_revision: Revision(revision),
        })
    }

    proptest! {
        #[test]
        fn pages_hold_every_record_once_and_are_no_longer_than_they_must_be(
            all in proptest::collection::vec(record(), 0..50)
        ) {
            let mut left = all.iter().map(|record| (&record.key, &record.value, record.mod_revision));
            let mut read = Vec::new();
            while let Some((payload, last)) = page(&mut left, 500) {
                let on_it = records(&payload).unwrap();
                prop_assert_eq!(on_it.last().map(|record| &record.key), Some(&last));
                prop_assert!(payload.len() < 500 + 14 + 40 + 300);
                read.extend(on_it);
            }
            prop_assert_eq!(read, all);
        }

        #[test]
        fn reading_arbitrary_bytes_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = records(&bytes);
        }
    }
}
