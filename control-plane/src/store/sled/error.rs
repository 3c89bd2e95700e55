//! Why a store does not open, in words for whoever has to mend it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    ballast,
    database::{WriteError, words},
    layout::FORMAT,
};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("store {} is in use by another process", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// There is something where one was to be made.
    #[error("store {}: the directory is not empty", dir.display())]
    Present {
        /// The store's directory.
        dir: PathBuf,
    },
    /// It was written by another version.
    #[error("store {} has format {found}, this version reads formats 1 to {FORMAT} only", dir.display())]
    Format {
        /// The store's directory.
        dir: PathBuf,
        /// The format it says it has.
        found: u32,
    },
    /// It is a sled database, but not one of ours.
    #[error("{} is a database without our format mark, so it is not a store of this program", dir.display())]
    Foreign {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A record or batch does not read back as it was written.
    #[error("{key} in store {} is corrupt", dir.display())]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// The record (`records/…`) or batch (`journal/…`).
        key: String,
    },
    /// Each part reads well, but they do not belong together.
    #[error("store {} contradicts itself: {what}", dir.display())]
    Inconsistent {
        /// The store's directory.
        dir: PathBuf,
        /// What does not agree.
        what: String,
    },
    /// The disk is full, even without the ballast.
    #[error(
        "no space left on the disk of store {}: free at least {} MiB",
        dir.display(),
        ballast::BALLAST_BYTES >> 20
    )]
    Full {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The database did not open.
    #[error("store {} did not open: {}", dir.display(), words(source))]
    Database {
        /// The store's directory.
        dir: PathBuf,
        /// What sled says.
        source: ::sled::Error,
    },
    /// The database panicked on its files.
    #[error("the database in store {} panicked, its files are damaged", dir.display())]
    Panicked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A file could not be used.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a failed use of a file means.
pub(super) fn io_error(dir: &Path, action: &'static str, path: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::StorageFull {
        return OpenError::Full { dir: dir.to_owned() };
    }
    OpenError::Io { action, path: path.to_owned(), source }
}

/// What an error of sled means.
pub(super) fn database_error(dir: &Path, source: ::sled::Error) -> OpenError {
    match source {
        ::sled::Error::Io(source) if source.kind() == io::ErrorKind::StorageFull => {
            OpenError::Full { dir: dir.to_owned() }
        }
        source => OpenError::Database { dir: dir.to_owned(), source },
    }
}

/// What a failed write means.
pub(super) fn write_error(dir: &Path, error: WriteError) -> OpenError {
    match error {
        WriteError::Sled(source) => database_error(dir, source),
        WriteError::Sync(source) => io_error(dir, "sync", dir, source),
    }
}
