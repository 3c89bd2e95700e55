//! Everything that a store directory holds, checked piece by piece and as a whole.
//!
//! Sled checks its own pages, but a lost page reads as fewer records, not as an error. So each record and
//! each group of the journal carries a checksum, and the head names the exact set of records and the hash at
//! which the journal's chain must end.

use std::path::Path;

use super::{
    super::{
        Batch, Loaded, Record, RollingHash,
        journal::{self, Head},
        seal::unseal,
        state::Group,
    },
    database::Database,
    error::{OpenError, database_error},
    layout::{self, HEAD},
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
    let mut records: Vec<Record> = Vec::new();
    for_each_sealed(dir, &database.records, "records", |name, payload| {
        layout::record(name, payload).map(|record| records.push(record))
    })?;
    let mut groups: Vec<(Vec<Batch>, RollingHash)> = Vec::new();
    for_each_sealed(dir, &database.journal, "journal", |name, payload| {
        layout::group(name, payload).map(|group| groups.push(group))
    })?;
    let mut head = None;
    for piece in database.meta.scan_prefix(HEAD) {
        let (key, sealed) = piece.map_err(|source| database_error(dir, source))?;
        head = layout::split(&key).and_then(|(name, _)| unseal(name, &sealed)).and_then(Head::decode);
    }
    let head = head.ok_or_else(|| corrupt("meta/head".to_owned()))?;

    let (loaded, groups) = journal::assemble(head, records, groups)
        .map_err(|what| OpenError::Inconsistent { dir: dir.to_owned(), what })?;
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
        let taken = unseal(name, sealed).and_then(|payload| take(name, payload));
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
