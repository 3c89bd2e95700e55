//! Where the ledger's records are kept: opaque keys and values, guarded commits, a followed log.
//!
//! ```text
//!  commit(changes, guards) ──▶ grouped ──▶ durable ──▶ published ──▶ answered
//!                                                         │
//!  load() = records + recent history                      └──▶ follow(after) = every batch after it
//! ```
//!
//! A store knows nothing of leases. It is one process's own, or shared by several. It promises four things: a commit is all or nothing and survives a
//! power cut once answered; a guard that does not hold fails only its own commit; every commit has its
//! own revision, one higher than the last; every follower sees every batch once, in order. Reads come
//! from memory, never from the disk.

mod commit;
mod digest;
mod etcd;
mod follow;
mod journal;
mod memory;
mod queue;
mod seal;
mod sled;
mod state;
#[cfg(test)]
mod suite;

use std::{borrow::Borrow, collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;

pub use self::{
    commit::{
        CommitError, InvalidCommit, MAX_COMMIT_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_QUEUED,
        MAX_VALUE_BYTES,
    },
    digest::RollingHash,
    etcd::{EtcdAddress, EtcdError, EtcdOptions, EtcdStore},
    memory::MemoryStore,
    sled::{OpenError, Options, SledStore},
};

/// How much history a store keeps at least, in bytes of keys and values.
pub const HISTORY_BYTES: usize = 16 << 20;

/// The number of a commit; 0 is the empty store, each commit is one higher than the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a record, such as `leases/blue/10.1.4.0`; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Key {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a commit does to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces the record.
    Put {
        /// Its name.
        key: Key,
        /// Its whole new value, at most [`MAX_VALUE_BYTES`].
        value: Bytes,
    },
    /// Removes the record; removing what is not there is no error.
    Delete {
        /// Its name.
        key: Key,
    },
}

impl Change {
    /// The record that is changed.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What must hold, just before a commit, for it to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// No record has this name.
    Absent(Key),
    /// The record exists and was last changed by exactly this revision.
    Unchanged {
        /// Its name.
        key: Key,
        /// The revision that last put it ([`Record::mod_revision`]).
        revision: Revision,
    },
}

impl Guard {
    /// The record that is guarded.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Unchanged { key, .. } => key,
        }
    }
}

/// One commit, as followers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub revision: Revision,
    /// What it changed, in the order in which the committer gave it.
    pub changes: Arc<[Change]>,
    /// The hash of everything up to and including this batch.
    pub hash: RollingHash,
}

/// One record as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// The revision that last put it.
    pub mod_revision: Revision,
}

/// A store's whole contents at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The newest revision; `follow` from here misses nothing.
    pub revision: Revision,
    /// The hash at `revision`.
    pub hash: RollingHash,
    /// Every record, in the order of its key.
    pub records: Vec<Record>,
    /// The newest batches without a gap, oldest first, ending at `revision`. At least [`HISTORY_BYTES`] of
    /// them, or all there ever were.
    pub history: Vec<Batch>,
    /// The hash just before the oldest batch of `history` (at `revision` if there is none).
    pub hash_before_history: RollingHash,
}

/// Why a store stopped writing, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(Arc<str>);

impl From<String> for Cause {
    fn from(words: String) -> Self {
        Self(words.into())
    }
}

impl From<&str> for Cause {
    fn from(words: &str) -> Self {
        Self(words.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a store can still write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Commits are taken.
    Healthy,
    /// What the store stands on cannot be reached: nothing is taken for now. Reads go on, of what was known.
    Away {
        /// What does not answer.
        cause: Cause,
    },
    /// A write failed and no further one is tried on this handle. Reads and followers go on.
    Poisoned {
        /// What failed.
        cause: Cause,
    },
    /// Poisoned, but a probe write has succeeded since: opening the store anew is worth trying.
    Recoverable {
        /// What had failed.
        cause: Cause,
    },
}

/// Why a store could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The history does not reach back that far; load again.
    #[error("history after revision {asked} is no longer kept, it begins after {oldest}")]
    Compacted {
        /// The position asked for.
        asked: Revision,
        /// The oldest position that can still be followed.
        oldest: Revision,
    },
    /// The store has not come that far; the position is another store's, or a rolled-back one's.
    #[error("revision {asked} is ahead of the store, which is at {revision}")]
    Ahead {
        /// The position asked for.
        asked: Revision,
        /// The store's newest revision.
        revision: Revision,
    },
}

/// What other processes on the same store tell of themselves, by their names.
pub type Others = Arc<BTreeMap<String, Bytes>>;

/// Durable, guarded, followed records.
pub trait Store: Send + Sync + 'static {
    /// Everything, at one revision.
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Makes `changes` durable, all or none, if all `guards` hold.
    ///
    /// The commit takes its place in the queue when this is *called*, not when the future is polled: calls
    /// made one after the other are decided in that order, and dropping the future does not undo its call.
    /// Once the future is ready with a revision, the changes survive a power cut and followers have
    /// them. After [`CommitError::Unknown`] and [`CommitError::Poisoned`] they may or may not be on disk.
    fn commit(
        &self,
        changes: Vec<Change>,
        guards: Vec<Guard>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + 'static + use<Self>;

    /// Every batch after `after`, in order, first from history, then as they are committed. Ends after an
    /// error, or when the store is closed.
    fn follow(
        &self,
        after: Revision,
    ) -> impl Stream<Item = Result<Batch, StoreError>> + Send + 'static + use<Self>;

    /// The newest revision, as whoever keeps the store knows it: not what this process has heard of.
    fn newest(&self) -> impl Future<Output = Result<Revision, Cause>> + Send + 'static + use<Self>;

    /// Whether other processes commit as well, so that what this one knows may be old.
    fn is_shared(&self) -> bool;

    /// Tells the other processes on this store something of ours, which they hear of within seconds.
    fn announce(&self, note: Bytes);

    /// What the other processes on this store tell, by their names; of one that is gone nothing, some seconds later.
    fn others(&self) -> watch::Receiver<Others>;

    /// Whether commits are still taken.
    fn health(&self) -> watch::Receiver<Health>;
}
