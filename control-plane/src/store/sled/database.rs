//! Sled's trees and the one write that matters: a whole group with what goes with it, durable when it returns.

use std::{fs::File, io, path::Path};

use ::sled::{
    IVec, Transactional, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};
use nix::fcntl::Flock;

use super::layout::{Part, Write, Writes};

/// Pieces that are cleared away at a time: more than a group and a page write, so that they do not pile up.
const STALE: usize = 64;

/// Sled's file in its directory.
pub(super) const FILE: &str = "db";

/// An open store directory.
pub(super) struct Database {
    pub(super) db: ::sled::Db,
    pub(super) records: Tree,
    pub(super) snapshots: Tree,
    pub(super) journal: Tree,
    pub(super) meta: Tree,
    /// Our own descriptor of sled's file; `None` in the control run of the power-cut test.
    pub(super) file: Option<File>,
    /// Held as long as the database is.
    pub(super) _lock: Flock<File>,
}

/// Why a group is not durable, or not known to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("{}", words(.0))]
    Sled(#[from] ::sled::Error),
    #[error("fdatasync: {0}")]
    Sync(io::Error),
}

impl Database {
    /// Opens sled in `dir`, whose lock is held.
    pub(super) fn open(dir: &Path, lock: Flock<File>, fdatasync: bool) -> Result<Self, ::sled::Error> {
        let db = ::sled::Config::new().path(dir).cache_capacity(32 << 20).open()?;
        let file =
            if fdatasync { Some(File::options().read(true).write(true).open(dir.join(FILE))?) } else { None };
        Ok(Self {
            records: db.open_tree(Part::Records.name())?,
            snapshots: db.open_tree(Part::Snapshots.name())?,
            journal: db.open_tree(Part::Journal.name())?,
            meta: db.open_tree(Part::Meta.name())?,
            db,
            file,
            _lock: lock,
        })
    }

    /// Writes all of journal and meta or nothing, and what else there is before; when this returns, a power cut does
    /// not undo it. Pieces of snapshots need not be written all or none: nothing names a snapshot that is not whole.
    pub(super) fn write(&self, writes: &Writes) -> Result<(), WriteError> {
        put_each(&self.records, &writes.records)?;
        put_each(&self.snapshots, &writes.snapshots)?;
        (&self.journal, &self.meta)
            .transaction(|(journal, meta)| {
                put(journal, &writes.journal)?;
                put(meta, &writes.meta)
            })
            .map_err(|error| match error {
                TransactionError::Abort(never) => match never {},
                TransactionError::Storage(error) => error,
            })?;
        self.sync()
    }

    /// What takes some of those pieces away that are not of this snapshot; nothing if there are none.
    pub(super) fn stale(&self, snapshot: u64) -> Result<Writes, ::sled::Error> {
        let older = self.snapshots.range(..snapshot.to_be_bytes());
        let newer = self.snapshots.range(snapshot.saturating_add(1).to_be_bytes()..);
        let records = if snapshot == 0 { Vec::new() } else { removals(self.records.iter())? };
        Ok(Writes { records, snapshots: removals(older.chain(newer))?, ..Writes::default() })
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.db.flush()?;
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(WriteError::Sync)
    }
}

/// What sled's error means, without its wrapping; a full disk reads the same wherever it was met.
pub(super) fn words(error: &::sled::Error) -> String {
    match error {
        ::sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            "No space left on device".to_owned()
        }
        ::sled::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn put(
    tree: &TransactionalTree,
    writes: &[Write],
) -> Result<(), ConflictableTransactionError<std::convert::Infallible>> {
    for (key, value) in writes {
        match value {
            Some(value) => tree.insert(key, value)?,
            None => tree.remove(key)?,
        };
    }
    Ok(())
}

fn put_each(tree: &Tree, writes: &[Write]) -> Result<(), ::sled::Error> {
    for (key, value) in writes {
        match value {
            Some(value) => tree.insert(key, value)?,
            None => tree.remove(key)?,
        };
    }
    Ok(())
}

fn removals(
    pieces: impl Iterator<Item = Result<(IVec, IVec), ::sled::Error>>,
) -> Result<Vec<Write>, ::sled::Error> {
    pieces.take(STALE).map(|piece| piece.map(|(key, _)| (key, None))).collect()
}
