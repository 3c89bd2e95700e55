//! The store of several control planes: etcd, with one key that says how far it is, and a log that all follow.
//!
//! ```text
//!  commit ─▶ queue ─▶ committer: stage on what is published ─▶ transaction ─┬─ head was as published ─▶ publish, answer
//!                        ▲                                                  └─ others were first ─▶ their log ─┐
//!                        │                                                                                      │
//!  watch of the log ─────┴───────────────────── publish what others have committed ◀────────────────────────────┘
//! ```
//!
//! A transaction compares the head alone: whoever has seen all that was committed decides everything else in memory, as
//! in every store. So revisions have no gaps, the hash of the way is the same at every replica, and a resume token of
//! one is good at the others. Of two that commit at once one is let through, and the other decides again.

mod address;
mod committer;
mod error;
mod follower;
mod ground;
mod layout;
mod make;
mod members;
mod open;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub use self::address::EtcdAddress;
pub use self::error::EtcdError;
use self::follower::Follower;
use self::ground::Ground;
use super::{
    Batch, Cause, Change, CommitError, Guard, HISTORY_BYTES, Health, Loaded, Others, Revision, Store,
    StoreError, commit,
    follow::Published,
    queue::{Command, Queue},
};

/// Which etcd, and how it is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Its members, and what all keys begin with.
    pub address: EtcdAddress,
    /// Name and password, where it asks for them.
    pub user: Option<(String, String)>,
    /// With TLS: whom we believe, PEM; without one, nobody is believed.
    pub ca: Option<String>,
    /// Certificate and key, PEM, where it asks for them.
    pub identity: Option<(String, String)>,
    /// How much history is kept at least, in bytes of keys and values.
    pub history_bytes: usize,
}

impl EtcdOptions {
    /// An etcd that asks for nothing.
    #[must_use]
    pub const fn new(address: EtcdAddress) -> Self {
        Self { address, user: None, ca: None, identity: None, history_bytes: HISTORY_BYTES }
    }

    fn urls(&self) -> Vec<String> {
        let scheme = if self.address.tls { "https" } else { "http" };
        self.address.members.iter().map(|member| format!("{scheme}://{member}")).collect()
    }
}

impl fmt::Debug for EtcdOptions {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A store in an etcd, below a prefix.
#[derive(Debug)]
pub struct EtcdStore {
    name: String,
    ground: Arc<Ground>,
    published: Arc<Published>,
    queue: Arc<Queue>,
    follower: JoinHandle<()>,
    committer: JoinHandle<()>,
    note: watch::Sender<Bytes>,
    others: watch::Receiver<Others>,
}

impl EtcdStore {
    /// Makes an empty store below a prefix where there is nothing.
    ///
    /// # Errors
    /// etcd cannot be reached or refuses; there is something.
    pub async fn create(options: &EtcdOptions) -> Result<(), EtcdError> {
        make::create(options).await
    }

    /// Makes a store below a prefix where there is nothing, or a copy that was cut off, with the contents of another
    /// one.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_copy(options: &EtcdOptions, loaded: &Loaded) -> Result<(), EtcdError> {
        make::copy(options, loaded).await
    }

    /// What a store holds, and the names of those that have it open.
    ///
    /// # Errors
    /// etcd cannot be reached or refuses; what is there is not ours, or damaged.
    pub async fn read(options: &EtcdOptions) -> Result<(Loaded, Vec<String>), EtcdError> {
        let ground = open::open(options).await?;
        let users = open::users(&ground, options).await?;
        let loaded = ground.published.state().loaded();
        Ok((loaded, users))
    }

    /// Reads all of a store, and begins to follow it. As many processes as want to may have it open; each needs a name
    /// of its own.
    ///
    /// # Errors
    /// etcd cannot be reached or refuses; what is there is not ours, or damaged.
    pub async fn open(options: &EtcdOptions, name: &str) -> Result<Self, EtcdError> {
        let ground = Arc::new(open::open(options).await?);
        let queue = Arc::new(Queue::new());
        queue.suspend("etcd is not followed yet".into());
        let note = watch::Sender::new(Bytes::new());
        let (tell, others) = watch::channel(Others::default());
        let follower = Follower {
            ground: Arc::clone(&ground),
            queue: Arc::clone(&queue),
            name: name.to_owned(),
            instance: rand::random(),
            note: note.subscribe(),
            others: tell,
            was_followed: false,
            proven: Instant::now(),
        };
        let follower = tokio::spawn(follower.run());
        let committer = tokio::spawn(committer::run(Arc::clone(&ground), Arc::clone(&queue)));
        let published = Arc::clone(&ground.published);
        let store =
            Self { name: name.to_owned(), ground, published, queue, follower, committer, note, others };
        store
            .is_followed()
            .await
            .map_err(|cause| EtcdError::Unfollowed { address: options.address.clone(), cause })?;
        Ok(store)
    }

    /// Makes the commits that wait, then ends.
    pub async fn close(mut self) {
        self.queue.close();
        // It ends by itself; if by a panic, that was told.
        let _ = (&mut self.committer).await;
        self.follower.abort();
        self.ground.forget(&self.name).await;
    }

    async fn is_followed(&self) -> Result<(), Cause> {
        let mut health = self.queue.health();
        let decided = health.wait_for(|health| !matches!(health, Health::Away { .. }));
        match timeout(follower::SILENCE, decided).await {
            // The queue is ours, and tells as long as we live.
            Ok(health) => match health.as_deref() {
                Ok(Health::Poisoned { cause } | Health::Recoverable { cause }) => Err(cause.clone()),
                _ => Ok(()),
            },
            Err(_) => Err("what is written there does not come back".into()),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.queue.close();
        self.follower.abort();
        self.committer.abort();
    }
}

impl Store for EtcdStore {
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        std::future::ready(Ok(self.published.state().loaded()))
    }

    fn commit(
        &self,
        changes: Vec<Change>,
        guards: Vec<Guard>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + use<> {
        let queued = commit::check(&changes, &guards)
            .map_err(CommitError::from)
            .and_then(|()| self.queue.push(Command { changes, guards }));
        async { queued?.await.map_err(|_| CommitError::Unknown)? }
    }

    fn follow(&self, after: Revision) -> impl Stream<Item = Result<Batch, StoreError>> + Send + use<> {
        self.published.follow(after)
    }

    fn newest(&self) -> impl Future<Output = Result<Revision, Cause>> + Send + 'static + use<> {
        let ground = Arc::clone(&self.ground);
        async move { ground.newest().await.map_err(|failure| failure.to_string().into()) }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn announce(&self, note: Bytes) {
        self.note.send_if_modified(|told| {
            let changed = *told != note;
            *told = note;
            changed
        });
    }

    fn others(&self) -> watch::Receiver<Others> {
        self.others.clone()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.queue.health()
    }
}
