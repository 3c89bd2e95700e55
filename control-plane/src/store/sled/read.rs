//! Everything that a store directory holds, checked piece by piece and as a whole.
//!
//! Sled checks its own pages, but a lost page reads as fewer records, not as an error. So each page of records and
//! each group of the journal carries a checksum, and the head names the exact set of records and the hash at
//! which the journal's chain must end.

use std::path::Path;

use ::sled::IVec;

use super::{
    super::{
        Batch, Loaded, Record, RollingHash,
        journal::{self, Head},
        seal::unseal,
        state::Group,
    },
    database::Database,
    error::{OpenError, database_error},
    layout::{self, BASE, Base, FORMAT_WITHOUT_BASE, HEAD, Part},
    snapshot,
};

/// What was read.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) loaded: Loaded,
    /// How the journal holds the history.
    pub(super) groups: Vec<Group>,
    pub(super) base: Base,
    /// Whether the disk says what the base is; in format 1 it does not.
    pub(super) is_marked: bool,
}

/// What is read: sled's trees, or those of a test.
pub(super) trait Pieces {
    /// The pieces of one tree whose names begin like this, in their order.
    fn scan(&self, part: Part, prefix: &[u8]) -> impl Iterator<Item = Result<(IVec, IVec), ::sled::Error>>;
}

impl Pieces for Database {
    fn scan(&self, part: Part, prefix: &[u8]) -> impl Iterator<Item = Result<(IVec, IVec), ::sled::Error>> {
        let tree = match part {
            Part::Records => &self.records,
            Part::Snapshots => &self.snapshots,
            Part::Journal => &self.journal,
            Part::Meta => &self.meta,
        };
        tree.scan_prefix(prefix)
    }
}

/// Reads and checks everything in a store of this format.
pub(super) fn read(dir: &Path, pieces: &impl Pieces, format: u32) -> Result<Contents, OpenError> {
    let inconsistent = |what| OpenError::Inconsistent { dir: dir.to_owned(), what };
    let head = meta(dir, pieces, HEAD, Head::decode)?;
    let is_marked = format != FORMAT_WITHOUT_BASE;
    let base = if is_marked {
        meta(dir, pieces, BASE, Base::decode)?
    } else {
        Base { revision: head.revision, ..Base::default() }
    };
    let records = records(dir, pieces, base)?;
    let mut groups: Vec<(Vec<Batch>, RollingHash)> = Vec::new();
    for_each_sealed(dir, pieces, Part::Journal, &[], |name, payload| {
        layout::group(name, payload).map(|group| groups.push(group))
    })?;
    let records = journal::replay(base.revision, head, records, &groups).map_err(inconsistent)?;
    let (loaded, groups) = journal::assemble(head, records, groups).map_err(inconsistent)?;
    Ok(Contents { loaded, groups, base, is_marked })
}

/// The records of the base, before the journal changes them.
fn records(dir: &Path, pieces: &impl Pieces, base: Base) -> Result<Vec<Record>, OpenError> {
    let mut records = Vec::new();
    if base.snapshot == 0 {
        for_each_sealed(dir, pieces, Part::Records, &[], |name, payload| {
            layout::record(name, payload).map(|record| records.push(record))
        })?;
        return Ok(records);
    }
    let mut pages = 0;
    for_each_sealed(dir, pieces, Part::Snapshots, &base.snapshot.to_be_bytes(), |_, payload| {
        pages += 1;
        snapshot::records(payload).map(|page| records.extend(page))
    })?;
    if pages != base.pages {
        let what = format!("it has {pages} of the {} pages of its records", base.pages);
        return Err(OpenError::Inconsistent { dir: dir.to_owned(), what });
    }
    Ok(records)
}

/// What is in `meta` under this name.
fn meta<T>(
    dir: &Path,
    pieces: &impl Pieces,
    name: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, OpenError> {
    let mut found = None;
    for_each_sealed(dir, pieces, Part::Meta, name, |_, payload| {
        found = decode(payload);
        found.is_some().then_some(())
    })?;
    found.ok_or_else(|| OpenError::Corrupt { dir: dir.to_owned(), key: layout::describe(Part::Meta, name) })
}

/// Puts pieces together, breaks their seals, and hands them on.
fn for_each_sealed(
    dir: &Path,
    pieces: &impl Pieces,
    part: Part,
    prefix: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), OpenError> {
    let mut finish = |name: &[u8], sealed: &[u8]| {
        let taken = unseal(name, sealed).and_then(|payload| take(name, payload));
        taken.ok_or_else(|| OpenError::Corrupt { dir: dir.to_owned(), key: layout::describe(part, name) })
    };
    let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
    for piece in pieces.scan(part, prefix) {
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
