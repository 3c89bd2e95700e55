//! The store for tests and clusters in one process: the same promises, except that nothing is kept.

use std::{future, sync::Mutex};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;

use super::{
    Batch, Cause, Change, CommitError, Guard, HISTORY_BYTES, Health, Loaded, Others, Revision, Store,
    StoreError, commit,
    follow::Published,
    state::{Staged, State},
};

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    published: Published,
    /// Held from the guards to the publication, so that commits are one after the other.
    committing: Mutex<()>,
    health: watch::Sender<Health>,
}

impl MemoryStore {
    /// An empty store with the usual history.
    pub fn new() -> Self {
        Self::with_history(HISTORY_BYTES)
    }

    /// An empty store that keeps at least `bytes` of history.
    pub fn with_history(bytes: usize) -> Self {
        Self {
            published: Published::new(State::empty(bytes)),
            committing: Mutex::new(()),
            health: watch::Sender::new(Health::Healthy),
        }
    }

    /// Behaves from now on as a store whose disk failed.
    pub fn poison(&self, cause: impl Into<Cause>) {
        self.health.send_replace(Health::Poisoned { cause: cause.into() });
    }

    fn commit_now(&self, changes: Vec<Change>, guards: &[Guard]) -> Result<Revision, CommitError> {
        commit::check(&changes, guards)?;
        let _one_at_a_time = self.committing.lock().map_err(|_| CommitError::Unknown)?;
        if let Health::Poisoned { cause } | Health::Recoverable { cause } = &*self.health.borrow() {
            return Err(CommitError::Poisoned(cause.clone()));
        }
        let staged = {
            let state = self.published.state();
            let mut staged = Staged::on(&state);
            staged.stage(&state, changes, guards).map_err(CommitError::Conflict)?;
            staged
        };
        let revision = staged.revision();
        self.published.publish(staged);
        Ok(revision)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        future::ready(Ok(self.published.state().loaded()))
    }

    fn commit(
        &self,
        changes: Vec<Change>,
        guards: Vec<Guard>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + use<> {
        future::ready(self.commit_now(changes, &guards))
    }

    fn follow(&self, after: Revision) -> impl Stream<Item = Result<Batch, StoreError>> + Send + use<> {
        self.published.follow(after)
    }

    fn newest(&self) -> impl Future<Output = Result<Revision, Cause>> + Send + 'static + use<> {
        future::ready(Ok(self.published.state().revision()))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn announce(&self, _note: Bytes) {
        // Nobody else has it open.
    }

    fn others(&self) -> watch::Receiver<Others> {
        watch::channel(Others::default()).1
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::suite::{self, Fixture, put},
        *,
    };

    struct Memory;

    impl Fixture for Memory {
        type Store = MemoryStore;

        async fn store(&self, history_bytes: usize) -> MemoryStore {
            MemoryStore::with_history(history_bytes)
        }
    }

    suite::store_suite!(Memory);

    #[tokio::test]
    async fn a_poisoned_store_refuses_commits_and_still_reads() {
        let store = MemoryStore::new();
        store.commit(vec![put("a", "1")], vec![]).await.unwrap();
        store.poison("the disk is gone");
        let refused = store.commit(vec![put("a", "2")], vec![]).await;
        assert_eq!(refused, Err(CommitError::Poisoned("the disk is gone".into())));
        assert_eq!(suite::followed(&store, 0, 1).await.len(), 1);
    }
}
