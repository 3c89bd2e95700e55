//! What the agent keeps on disk, so that it can start without the control plane.
//!
//! ```text
//! <state-dir>/lock                     one agent per directory
//!             instance                 32 hexadecimal digits, made once
//!             networks/<id>.state      whole set, then what changed (state/file.rs)
//!             packet-filter            our table as it was put in place (state/table.rs)
//! ```
//!
//! A file that cannot be read whole is no state, never half a state.

mod file;
mod table;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use loden_proto::model::{Epoch, InstanceId, Network, Subnets};
use loden_proto::names::NetworkId;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::keys::Keys;
use crate::peers::PeerSet;

pub use file::{Content, NetworkFile, Rest};
pub use table::{KeptTable, TableFile};

/// Below the state directory.
const NETWORKS: &str = "networks";
/// Of our table in the packet filter.
const TABLE: &str = "packet-filter";
/// At the end of a network's file.
const STATE: &str = ".state";
/// Of a file that is not in place yet.
const DRAFT: &str = "new";

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk refuses.
    #[error("could not use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent runs with it.
    #[error("another agent runs with the state directory {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// This node's subnets in a network, as granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Held {
    /// The subnets.
    pub subnets: Subnets,
    /// Of the acquire that granted them.
    pub epoch: Epoch,
}

/// What is known of a network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// The lease and the network that it is in.
    pub lease: Option<(Held, Network)>,
    /// The peers; unknown is not empty.
    pub peers: Option<PeerSet>,
    /// The addresses that were sent from last.
    pub sends_from: Vec<IpAddr>,
    /// Those of this node's tunnel.
    pub keys: Option<Keys>,
    /// Who does not answer on a link of the host.
    pub silent: BTreeSet<IpAddr>,
}

/// The state directory, held by this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory where it is missing (0700) and holds it until dropped. One that cannot be written to is
    /// taken as it is.
    ///
    /// # Errors
    /// The disk refuses, or another agent holds it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let networks = path.join(NETWORKS);
        DirBuilder::new().recursive(true).mode(0o700).create(&networks).map_err(at(&networks))?;
        let lock = path.join("lock");
        let file = match OpenOptions::new().create(true).append(true).mode(0o600).open(&lock) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                warn!(path = %path.display(), "the state directory is read-only: what is there is used, nothing is kept");
                File::open(&lock).or_else(|_| File::open(path))
            }
            opened => opened,
        };
        let file = file.map_err(at(&lock))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StateError::InUse { path: path.to_owned() }),
            Err((_, errno)) => Err(at(&lock)(errno.into())),
        }
    }

    /// As [`Self::open`], where there is a directory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StateError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { path: path.to_owned(), source }),
            Ok(_) => Self::open(path).map(Some),
        }
    }

    /// All networks that there is a file of, with what is in it.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        self.networks().iter().map(|id| self.network(id).1).collect()
    }

    /// All networks that there is a file of.
    #[must_use]
    pub fn networks(&self) -> Vec<NetworkId> {
        let files = fs::read_dir(self.path.join(NETWORKS)).into_iter().flatten().flatten();
        let ids = files.filter_map(|file| {
            file.file_name().to_str()?.strip_suffix(STATE).and_then(|id| id.parse::<NetworkId>().ok())
        });
        ids.collect()
    }

    /// Removes the state, and the directory unless something else is in it, as the node's identity. Answers
    /// what is left of it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(self) -> Result<Vec<PathBuf>, StateError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let networks = self.path.join(NETWORKS);
        for file in fs::read_dir(&networks).map_err(at(&networks))? {
            let file = file.map_err(at(&networks))?.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| extension == DRAFT || STATE.ends_with(extension)) {
                fs::remove_file(&file).map_err(at(&file))?;
            }
        }
        let files = ["instance", TABLE, "lock"].map(|name| self.path.join(name));
        let drafts = files.clone().map(|file| file.with_extension(DRAFT));
        for file in drafts.into_iter().chain(files) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&file)(error)),
                _ => {}
            }
        }
        for directory in [&networks, &self.path] {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                removed => removed.map_err(at(directory))?,
            }
        }
        let left = fs::read_dir(&self.path).into_iter().flatten().flatten();
        Ok(left.map(|entry| entry.path()).collect())
    }

    /// The instance of this directory; `random` becomes it when there is none
    /// that can be read.
    ///
    /// # Errors
    /// A new one cannot be written.
    pub fn instance(&self, random: u128) -> Result<InstanceId, StateError> {
        let path = self.path.join("instance");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim_end().parse() {
                Ok(instance) => return Ok(instance),
                Err(error) => warn!(path = %path.display(), %error, "instance unreadable; a new one is made"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StateError::Io { path, source }),
        }
        let instance = InstanceId(random);
        replace(&path, format!("{instance}\n").as_bytes())
            .map_err(|source| StateError::Io { path, source })?;
        Ok(instance)
    }

    /// The file of our table in the packet filter.
    #[must_use]
    pub fn table(&self) -> TableFile {
        TableFile::new(self.path.join(TABLE))
    }

    /// The file of a network and what is in it.
    #[must_use]
    pub fn network(&self, id: &NetworkId) -> (NetworkFile, Kept) {
        NetworkFile::open(self.path.join(NETWORKS).join(format!("{id}{STATE}")))
    }
}

/// Puts a whole file in place, durable when it returns. Its directory may have been removed.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = path.with_extension(DRAFT);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
