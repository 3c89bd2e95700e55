//! `loden-control-plane recover`: has the next start collect leases from the agents.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::adoption::{self, MarkerError};
use crate::config::{Config, StoreAddress};
use crate::identity::{self, PkiError};
use crate::store::SledStore;

/// What was noted, and where.
#[derive(Debug)]
pub struct Recovery {
    /// The file.
    pub marker: PathBuf,
    /// Whether the state directory had nothing in it.
    pub was_empty: bool,
}

/// Nothing was noted.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It may be misspelt, and what is noted there would be read by nobody.
    #[error("state-dir: {} is not there: make it if it was lost, or name the one that is meant", .0.display())]
    Absent(PathBuf),
    /// What is noted would be read at the next start only, and overwritten before.
    #[error("state-dir: {}: a control plane runs on it: stop it first, and start it again afterwards", .0.display())]
    Runs(PathBuf),
    /// The directory cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// What cannot be read.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The directory of the marker cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The marker cannot be written.
    #[error(transparent)]
    Marker(#[from] MarkerError),
}

impl RecoverError {
    /// Whether the wrong directory was named.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Absent(_))
    }
}

/// The lock of a store, if there is one.
fn lock(path: &Path, directory: &Path) -> Result<Option<Flock<File>>, RecoverError> {
    match File::open(path) {
        Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(RecoverError::Runs(directory.to_owned())),
            Err((_, errno)) => Err(unreadable(path, errno.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn unreadable(path: &Path, error: io::Error) -> RecoverError {
    RecoverError::Io { path: path.to_owned(), error }
}

/// Notes beside the CA, or where it would be, that the store was lost.
///
/// # Errors
/// The state directory is not there, somebody runs on it, or it cannot be read or written.
pub fn recover(config: &Config) -> Result<Recovery, RecoverError> {
    let directory = &config.state_dir;
    let was_empty = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RecoverError::Absent(directory.clone()));
        }
        Err(error) => return Err(unreadable(directory, error)),
    };
    // Held until it is noted, so that nobody starts meanwhile. On an etcd nothing tells who runs here.
    let _lock = match config.store() {
        StoreAddress::Sled(store) => lock(&store.join(SledStore::LOCK), directory)?,
        StoreAddress::Etcd(_) => None,
    };
    let marker = identity::incarnation_marker(&config.pki_dir())?;
    adoption::recover(&marker)?;
    Ok(Recovery { marker, was_empty })
}
