//! The published state and those who follow it, each at its own pace.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::{
    Batch, Revision, StoreError,
    state::{Staged, State},
};

/// Batches that a follower takes at a time.
const PAGE: usize = 256;

/// The state and the bell that rings when it moves on.
pub(super) struct Published {
    state: Arc<Mutex<State>>,
    newest: watch::Sender<Revision>,
}

impl Published {
    pub(super) fn new(state: State) -> Self {
        let newest = watch::Sender::new(state.revision());
        Self { state: Arc::new(Mutex::new(state)), newest }
    }

    /// The state, for a short look.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Moves the state on and wakes the followers.
    pub(super) fn publish(&self, staged: Staged) {
        let revision = staged.revision();
        self.state().publish(staged);
        self.newest.send_replace(revision);
    }

    /// Every batch after `after`. Ends with this publication, or after an error.
    pub(super) fn follow(
        &self,
        after: Revision,
    ) -> impl Stream<Item = Result<Batch, StoreError>> + Send + use<> {
        let follower = Follower {
            state: Arc::clone(&self.state),
            newest: self.newest.subscribe(),
            position: after,
            page: Vec::new().into_iter(),
            failed: false,
        };
        stream::unfold(follower, |mut follower| async {
            let next = follower.next().await?;
            Some((next, follower))
        })
    }
}

/// Where it stands; the records are no matter for a log.
impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("newest", &*self.newest.borrow()).finish_non_exhaustive()
    }
}

struct Follower {
    state: Arc<Mutex<State>>,
    newest: watch::Receiver<Revision>,
    position: Revision,
    page: std::vec::IntoIter<Batch>,
    failed: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Batch, StoreError>> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(batch) = self.page.next() {
                self.position = batch.revision;
                return Some(Ok(batch));
            }
            // Marked as seen before the look, so that what comes after the look rings again.
            self.newest.mark_unchanged();
            let page = lock(&self.state).since(self.position, PAGE);
            match page {
                Ok(page) if page.is_empty() => self.newest.changed().await.ok()?,
                Ok(page) => self.page = page.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A panic elsewhere must not take the readers with it: nothing panics between two halves of a change.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
