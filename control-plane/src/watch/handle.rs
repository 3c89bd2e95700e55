//! One watch as others see it: whose it is, how far behind, and how it is ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use loden_proto::names::NetworkId;
use tokio::time::Instant;
use tonic::Status;

use super::Viewer;

/// A handle on an open watch; cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    network: NetworkId,
    viewer: Viewer,
    opened: Instant,
    /// When everything there was had been handed out, in ms since `opened`.
    caught_up: AtomicU64,
    revision: AtomicU64,
    end: Mutex<Option<Status>>,
    waker: AtomicWaker,
}

impl WatchHandle {
    pub(super) fn new(network: NetworkId, viewer: Viewer) -> Self {
        Self(Arc::new(Inner {
            network,
            viewer,
            opened: Instant::now(),
            caught_up: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            end: Mutex::default(),
            waker: AtomicWaker::new(),
        }))
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &NetworkId {
        &self.0.network
    }

    /// Who watches.
    #[must_use]
    pub fn viewer(&self) -> &Viewer {
        &self.0.viewer
    }

    /// Up to which revision the transport has been given messages.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// For how long messages have waited for the client: the time since the transport last had all of
    /// them. While it has, this is less than a heartbeat interval.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Duration {
        let caught_up = self.0.opened + Duration::from_millis(self.0.caught_up.load(Ordering::Relaxed));
        now.saturating_duration_since(caught_up)
    }

    /// Ends the watch with a status. The first one counts. A client that reads nothing does not get it:
    /// end its connection then.
    pub fn end(&self, status: Status) {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(status);
        self.0.waker.wake();
    }

    pub(super) fn told_to_end(&self, cx: &Context<'_>) -> Option<Status> {
        self.0.waker.register(cx.waker());
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn handed_out(&self, revision: u64) {
        self.0.revision.store(revision, Ordering::Relaxed);
    }

    pub(super) fn caught_up(&self) {
        let elapsed = self.0.opened.elapsed().as_millis();
        self.0.caught_up.store(elapsed.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
