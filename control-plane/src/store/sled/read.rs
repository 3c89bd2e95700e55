//! Everything that a store directory holds, checked piece by piece and as a whole.
//!
//! Sled checks its own pages, but a lost page reads as fewer records, not as an error. So each record and
//! each group of the journal carries a checksum, and the head names the exact set of records and the hash at
//! which the journal's chain must end.

use std::path::Path;

use super::{
    super::{Batch, Loaded, Record, Revision, RollingHash, digest, state::Group},
    database::Database,
    error::{OpenError, database_error},
    layout::{self, HEAD, Head},
};

/// What was read.
pub(super) struct Contents {
    pub(super) loaded: Loaded,
    /// How the journal holds the history.
    pub(super) groups: Vec<Group>,
}

/// Reads and checks everything.
pub(super) fn read(dir: &Path, database: &Database) -> Result<Contents, OpenError> {
    let corrupt = |key: String| OpenError::Corrupt { dir: dir.to_owned(), key };
    let inconsistent = |what: String| OpenError::Inconsistent { dir: dir.to_owned(), what };
    let mut records: Vec<Record> = Vec::new();
    for_each_sealed(dir, &database.records, "records", |name, payload| {
        layout::record(name, payload).map(|record| records.push(record))
    })?;
    let mut journal: Vec<(Vec<Batch>, RollingHash)> = Vec::new();
    for_each_sealed(dir, &database.journal, "journal", |name, payload| {
        layout::group(name, payload).map(|group| journal.push(group))
    })?;
    let mut head = None;
    for piece in database.meta.scan_prefix(HEAD) {
        let (key, sealed) = piece.map_err(|source| database_error(dir, source))?;
        head = layout::split(&key).and_then(|(name, _)| layout::unseal(name, &sealed)).and_then(Head::read);
    }
    let head = head.ok_or_else(|| corrupt("meta/head".to_owned()))?;

    let records_digest = records
        .iter()
        .fold(0, |all, record| all ^ digest::record(&record.key, &record.value, record.mod_revision));
    if records_digest != head.records_digest {
        return Err(inconsistent(format!("its records are not those of revision {}", head.revision)));
    }
    let (oldest, hash_before_history) = match journal.first() {
        Some((batches, before)) => (batches[0].revision.0.saturating_sub(1), *before),
        None => (head.revision.0, head.hash),
    };
    let mut end = (Revision(oldest), hash_before_history);
    for (batches, before) in &journal {
        // No group is empty, or it would not have been read.
        let (first, last) = (&batches[0], &batches[batches.len() - 1]);
        if (first.revision, *before) != (end.0.next(), end.1) {
            return Err(inconsistent(format!("batch {} does not follow batch {}", first.revision, end.0)));
        }
        end = (last.revision, last.hash);
    }
    if end != (head.revision, head.hash) {
        return Err(inconsistent(format!("its journal ends elsewhere than at revision {}", head.revision)));
    }
    let groups = journal.iter().filter_map(|(batches, _)| Group::of(batches)).collect();
    let loaded = Loaded {
        revision: head.revision,
        hash: head.hash,
        records,
        history: journal.into_iter().flat_map(|(batches, _)| batches).collect(),
        hash_before_history,
    };
    Ok(Contents { loaded, groups })
}

/// Puts the pieces in `tree` together, breaks their seals, and hands them on.
fn for_each_sealed(
    dir: &Path,
    tree: &::sled::Tree,
    tree_name: &str,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), OpenError> {
    let mut finish = |name: &[u8], sealed: &[u8]| {
        let taken = layout::unseal(name, sealed).and_then(|payload| take(name, payload));
        taken
            .ok_or_else(|| OpenError::Corrupt { dir: dir.to_owned(), key: layout::describe(tree_name, name) })
    };
    let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
    for piece in tree {
        let (key, value) = piece.map_err(|source| database_error(dir, source))?;
        let Some((name, number)) = layout::split(&key) else {
            return finish(&key, &[]);
        };
        match &mut open {
            Some((current, sealed)) if current == name => sealed.extend_from_slice(&value),
            _ => {
                if let Some((name, sealed)) = open.take() {
                    finish(&name, &sealed)?;
                }
                if number != 0 {
                    return finish(name, &[]);
                }
                open = Some((name.to_vec(), value.to_vec()));
            }
        }
    }
    open.map_or(Ok(()), |(name, sealed)| finish(&name, &sealed))
}
