//! Which nodes stream right now, and as which instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loden_proto::model::{InstanceId, LeaseName};
use tokio::sync::watch;

use crate::ledger;

/// Open watches of nodes; cheap to clone. Observers are not in it.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    open: Arc<Mutex<Open>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Open {
    /// Several while a node replaces its connection; the newest is last.
    by_lease: HashMap<LeaseName, Vec<(u64, InstanceId)>>,
    next: u64,
}

impl ledger::Streaming for Streams {
    fn instance(&self, lease: &LeaseName) -> Option<InstanceId> {
        Self::instance(self, lease)
    }
}

/// A node streams as long as this lives.
#[derive(Debug)]
pub(super) struct Streaming {
    streams: Streams,
    lease: LeaseName,
    id: u64,
}

impl Streams {
    /// The instance of the newest open watch for a lease.
    #[must_use]
    pub fn instance(&self, lease: &LeaseName) -> Option<InstanceId> {
        self.open().by_lease.get(lease)?.last().map(|(_, instance)| *instance)
    }

    /// Whether a lease's node streams.
    #[must_use]
    pub fn contains(&self, lease: &LeaseName) -> bool {
        self.open().by_lease.contains_key(lease)
    }

    /// How many leases have a node that streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open().by_lease.len()
    }

    /// Whether no node streams.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The leases whose nodes stream.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseName> {
        self.open().by_lease.keys().cloned().collect()
    }

    /// Changes whenever a watch of a node begins or ends.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn enter(&self, lease: LeaseName, instance: InstanceId) -> Streaming {
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        open.by_lease.entry(lease.clone()).or_default().push((id, instance));
        drop(open);
        self.changed.send_replace(());
        Streaming { streams: self.clone(), lease, id }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        if let Some(watches) = open.by_lease.get_mut(&self.lease) {
            watches.retain(|(id, _)| *id != self.id);
            if watches.is_empty() {
                open.by_lease.remove(&self.lease);
            }
        }
        drop(open);
        self.streams.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_watch_counts_and_the_last_one_out_ends_the_streaming() {
        let streams = Streams::default();
        let lease = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
        let old = streams.enter(lease.clone(), InstanceId(1));
        let new = streams.enter(lease.clone(), InstanceId(2));
        assert_eq!(streams.instance(&lease), Some(InstanceId(2)));
        drop(old);
        assert_eq!((streams.instance(&lease), streams.len()), (Some(InstanceId(2)), 1));
        let mut changes = streams.changes();
        drop(new);
        assert!(changes.has_changed().unwrap() && streams.is_empty());
        changes.mark_unchanged();
    }
}
