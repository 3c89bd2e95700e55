//! Sled's trees and the one write that matters: a whole group, durable when it returns.

use std::{fs::File, io, path::Path};

use ::sled::{
    Transactional, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};
use nix::fcntl::Flock;

use super::layout::{Write, Writes};

/// An open store directory.
pub(super) struct Database {
    pub(super) db: ::sled::Db,
    pub(super) records: Tree,
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
            if fdatasync { Some(File::options().read(true).write(true).open(dir.join("db"))?) } else { None };
        Ok(Self {
            records: db.open_tree("records")?,
            journal: db.open_tree("journal")?,
            meta: db.open_tree("meta")?,
            db,
            file,
            _lock: lock,
        })
    }

    /// Writes everything or nothing; when this returns, a power cut does not undo it.
    pub(super) fn write(&self, writes: &Writes) -> Result<(), WriteError> {
        (&self.records, &self.journal, &self.meta)
            .transaction(|(records, journal, meta)| {
                put(records, &writes.records)?;
                put(journal, &writes.journal)?;
                put(meta, &writes.meta)
            })
            .map_err(|error| match error {
                TransactionError::Abort(never) => match never {},
                TransactionError::Storage(error) => error,
            })?;
        self.sync()
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
            Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
            None => tree.remove(key.as_slice())?,
        };
    }
    Ok(())
}
