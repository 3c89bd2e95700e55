//! What a commit may contain, and how it can fail.

use std::collections::HashSet;

use super::{Cause, Change, Guard, Key, Revision};

/// Longest key, in bytes. Sled's index nodes of such keys stay inside its log.
pub const MAX_KEY_BYTES: usize = 384;
/// Largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 16 << 10;
/// Most changes, and most guards, of one commit: an etcd takes 128 operations at a time, some of which are the
/// store's own.
pub const MAX_OPERATIONS: usize = 120;
/// Most bytes of keys and values in one commit.
pub const MAX_COMMIT_BYTES: usize = 256 << 10;
/// Most commits that wait for a committer.
pub const MAX_QUEUED: usize = 8192;

/// Why a commit did not happen, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold. Whoever has followed up to this revision sees why.
    #[error("a guarded record changed, up to revision {0}")]
    Conflict(Revision),
    /// No answer came; following the store settles whether it happened.
    #[error("the store did not answer, the outcome is unknown")]
    Unknown,
    /// A write failed, this one or an earlier one, and none is tried any more.
    #[error("the store no longer writes: {0}")]
    Poisoned(Cause),
    /// What the store stands on cannot be reached at the moment; nothing happened.
    #[error("the store does not write at the moment: {0}")]
    Away(Cause),
    /// The queue is full; nothing happened.
    #[error("{MAX_QUEUED} commits are already waiting")]
    Busy,
    /// The store is being closed; nothing happened.
    #[error("the store is closed")]
    Closed,
    /// The commit breaks a limit; nothing happened.
    #[error(transparent)]
    Invalid(#[from] InvalidCommit),
}

/// The limit that a commit breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommit {
    /// There is nothing in it.
    #[error("a commit needs at least one change")]
    Empty,
    /// Too many changes or guards.
    #[error("a commit has {count} {what}, at most {MAX_OPERATIONS} are allowed")]
    TooMany {
        /// `changes` or `guards`.
        what: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Two changes of one record, or two guards on one.
    #[error("key {key} occurs twice in one commit")]
    KeyTwice {
        /// The record.
        key: Key,
    },
    /// An empty or overlong key, or one with a NUL.
    #[error("key {:?} is not valid: it must have 1 to {MAX_KEY_BYTES} bytes and no NUL", key.as_str())]
    Key {
        /// The key.
        key: Key,
    },
    /// The value is too large.
    #[error("value of {key} has {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed")]
    ValueTooLarge {
        /// The record.
        key: Key,
        /// The size of the value.
        bytes: usize,
    },
    /// All keys and values together are too large.
    #[error("a commit has {bytes} bytes of keys and values, at most {MAX_COMMIT_BYTES} are allowed")]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
}

/// Checks the limits of one commit.
pub(super) fn check(changes: &[Change], guards: &[Guard]) -> Result<(), InvalidCommit> {
    if changes.is_empty() {
        return Err(InvalidCommit::Empty);
    }
    for (what, count) in [("changes", changes.len()), ("guards", guards.len())] {
        if count > MAX_OPERATIONS {
            return Err(InvalidCommit::TooMany { what, count });
        }
    }
    distinct(changes.iter().map(Change::key))?;
    distinct(guards.iter().map(Guard::key))?;
    for change in changes {
        if let Change::Put { key, value } = change
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(InvalidCommit::ValueTooLarge { key: key.clone(), bytes: value.len() });
        }
    }
    let bytes = weight(changes);
    if bytes > MAX_COMMIT_BYTES {
        return Err(InvalidCommit::TooLarge { bytes });
    }
    Ok(())
}

/// Bytes of keys and values.
pub(super) fn weight(changes: &[Change]) -> usize {
    changes
        .iter()
        .map(|change| match change {
            Change::Put { key, value } => key.len() + value.len(),
            Change::Delete { key } => key.len(),
        })
        .sum()
}

fn distinct<'a>(keys: impl Iterator<Item = &'a Key>) -> Result<(), InvalidCommit> {
    let mut seen = HashSet::new();
    for key in keys {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.contains('\0') {
            return Err(InvalidCommit::Key { key: key.clone() });
        }
        if !seen.insert(key) {
            return Err(InvalidCommit::KeyTwice { key: key.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.into(), value: Bytes::from(vec![0; bytes]) }
    }

    fn refused(changes: &[Change], guards: &[Guard]) -> String {
        check(changes, guards).unwrap_err().to_string()
    }

    #[test]
    fn each_limit_is_named_with_field_value_and_rule() {
        let many: Vec<_> = (0..121).map(|n| put(&format!("k{n}"), 1)).collect();
        let heavy: Vec<_> = (0..17).map(|n| put(&format!("k{n}"), MAX_VALUE_BYTES)).collect();
        assert_eq!(refused(&[], &[]), "a commit needs at least one change");
        assert_eq!(refused(&many, &[]), "a commit has 121 changes, at most 120 are allowed");
        assert_eq!(refused(&[put("a", 1), put("a", 2)], &[]), "key a occurs twice in one commit");
        assert_eq!(refused(&[put("a", 16385)], &[]), "value of a has 16385 bytes, at most 16384 are allowed");
        assert_eq!(
            refused(&[put("", 1)], &[]),
            "key \"\" is not valid: it must have 1 to 384 bytes and no NUL"
        );
        assert_eq!(
            refused(&[put("a", 1)], &[Guard::Absent("b\0".into())]),
            "key \"b\\0\" is not valid: it must have 1 to 384 bytes and no NUL"
        );
        assert_eq!(
            refused(&heavy, &[]),
            "a commit has 278569 bytes of keys and values, at most 262144 are allowed"
        );
    }

    #[test]
    fn the_largest_commit_is_allowed() {
        let changes: Vec<_> = (0..15).map(|n| put(&format!("k{n}"), MAX_VALUE_BYTES)).collect();
        assert_eq!(check(&changes, &[Guard::Absent("k".repeat(MAX_KEY_BYTES).into())]), Ok(()));
    }
}
