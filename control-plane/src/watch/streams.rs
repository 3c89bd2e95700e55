//! Which nodes stream right now, and as which instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loden_proto::model::{BootId, InstanceId, LeaseName};
use loden_proto::names::NodeId;
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
    by_lease: HashMap<LeaseName, Vec<OpenWatch>>,
    /// On which host each lease was last acquired, as far as hosts tell: its endpoint is that host's.
    acquired: HashMap<LeaseName, BootId>,
    next: u64,
}

#[derive(Debug)]
struct OpenWatch {
    id: u64,
    instance: InstanceId,
    boot: Option<BootId>,
}

/// The same instance is on another host: the agent's state was copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Elsewhere {
    /// It streams there.
    Streams(BootId),
    /// It does not stream, but has acquired the lease since.
    Acquired(BootId),
}

impl Open {
    /// The other host on which an instance streams. Whoever does not tell his host is not on one that tells.
    fn elsewhere(&self, lease: &LeaseName, instance: InstanceId, boot: Option<BootId>) -> Option<BootId> {
        let watches = self.by_lease.get(lease)?.iter();
        let mut boots = watches.filter(|watch| watch.instance == instance).filter_map(|watch| watch.boot);
        boots.find(|other| Some(*other) != boot)
    }
}

/// The open watches of a lease, as others are told of them.
fn told((lease, watches): (&LeaseName, &Vec<OpenWatch>)) -> Vec<(LeaseName, InstanceId, Option<BootId>)> {
    watches.iter().map(|watch| (lease.clone(), watch.instance, watch.boot)).collect()
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
        self.open().by_lease.get(lease)?.last().map(|watch| watch.instance)
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

    /// All open watches: of which lease, by which instance, and on which host as far as hosts tell.
    #[must_use]
    pub fn watches(&self) -> Vec<(LeaseName, InstanceId, Option<BootId>)> {
        self.open().by_lease.iter().flat_map(told).collect()
    }

    /// The open watches of a node, in the same way.
    #[must_use]
    pub fn watches_of(&self, node: &NodeId) -> Vec<(LeaseName, InstanceId, Option<BootId>)> {
        let open = self.open();
        open.by_lease.iter().filter(|(lease, _)| lease.node == *node).flat_map(told).collect()
    }

    /// Changes whenever a watch of a node begins or ends.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Notes on which host a lease is about to be acquired. A host that has a watch open, though maybe not
    /// noticed to be cut off yet, is never in its own way; one that does not tell who it is is in nobody's. Whoever
    /// does not tell while one streams that does is refused: else to say nothing would do for a thief.
    ///
    /// # Errors
    /// The same instance streams from another host.
    pub fn acquire(
        &self,
        lease: &LeaseName,
        instance: InstanceId,
        boot: Option<BootId>,
    ) -> Result<(), Elsewhere> {
        let mut open = self.open();
        if let Some(other) = open.elsewhere(lease, instance, boot) {
            return Err(Elsewhere::Streams(other));
        }
        // Another instance that streams has the lease, and this one will be refused.
        let watches = open.by_lease.get(lease).into_iter().flatten();
        if watches.last().is_none_or(|watch| watch.instance == instance) {
            match boot {
                Some(boot) => open.acquired.insert(lease.clone(), boot),
                None => open.acquired.remove(lease),
            };
        }
        Ok(())
    }

    /// Whether the lease is still the one that a host has acquired.
    ///
    /// # Errors
    /// The same instance streams from another host, or has acquired the lease there.
    pub fn admit(
        &self,
        lease: &LeaseName,
        instance: InstanceId,
        boot: Option<BootId>,
    ) -> Result<(), Elsewhere> {
        let open = self.open();
        if let Some(other) = open.elsewhere(lease, instance, boot) {
            return Err(Elsewhere::Streams(other));
        }
        match open.acquired.get(lease) {
            Some(other) if Some(*other) != boot => Err(Elsewhere::Acquired(*other)),
            _ => Ok(()),
        }
    }

    pub(super) fn enter(&self, lease: LeaseName, instance: InstanceId, boot: Option<BootId>) -> Streaming {
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        open.by_lease.entry(lease.clone()).or_default().push(OpenWatch { id, instance, boot });
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
            watches.retain(|watch| watch.id != self.id);
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
        let old = streams.enter(lease.clone(), InstanceId(1), None);
        let new = streams.enter(lease.clone(), InstanceId(2), None);
        assert_eq!(streams.instance(&lease), Some(InstanceId(2)));
        let both = [InstanceId(1), InstanceId(2)].map(|instance| (lease.clone(), instance, None));
        assert_eq!(streams.watches(), both);
        assert_eq!(streams.watches_of(&lease.node), both);
        assert!(streams.watches_of(&"b".parse().unwrap()).is_empty());
        drop(old);
        assert_eq!((streams.instance(&lease), streams.len()), (Some(InstanceId(2)), 1));
        let mut changes = streams.changes();
        drop(new);
        assert!(changes.has_changed().unwrap() && streams.is_empty());
        changes.mark_unchanged();
    }

    #[test]
    fn a_copy_of_an_instance_on_another_host_is_told_from_one_that_comes_back() {
        let streams = Streams::default();
        let lease = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
        let (it, here, there) = (InstanceId(1), Some(BootId(1)), Some(BootId(2)));
        assert_eq!(streams.acquire(&lease, it, here), Ok(()));
        let watch = streams.enter(lease.clone(), it, here);
        // Cut off, which the server has not noticed: the old watch is still there.
        assert_eq!(streams.admit(&lease, it, here), Ok(()));
        assert_eq!(streams.acquire(&lease, it, here), Ok(()));
        let again = streams.enter(lease.clone(), it, here);
        // One that does not tell is another one too.
        for other in [there, None, there] {
            assert_eq!(streams.acquire(&lease, it, other), Err(Elsewhere::Streams(BootId(1))));
            assert_eq!(streams.admit(&lease, it, other), Err(Elsewhere::Streams(BootId(1))));
        }
        // The other one may have it once the first is gone; then the first must ask again.
        drop((watch, again));
        assert_eq!(streams.acquire(&lease, it, there), Ok(()));
        assert_eq!(streams.admit(&lease, it, here), Err(Elsewhere::Acquired(BootId(2))));
        assert_eq!(streams.acquire(&lease, it, here), Ok(()));
        assert_eq!(streams.admit(&lease, it, there), Err(Elsewhere::Acquired(BootId(1))));
    }

    #[test]
    fn a_host_that_does_not_tell_comes_back_and_may_begin_to_tell() {
        let streams = Streams::default();
        let lease = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
        let (it, here) = (InstanceId(1), Some(BootId(1)));
        let mut watches = Vec::new();
        for boot in [None, None, here] {
            assert_eq!(streams.acquire(&lease, it, boot), Ok(()));
            assert_eq!(streams.admit(&lease, it, boot), Ok(()));
            // Cut off each time, which the server has not noticed.
            watches.push(streams.enter(lease.clone(), it, None));
        }
        assert_eq!(streams.admit(&lease, it, None), Err(Elsewhere::Acquired(BootId(1))));
        assert_eq!(streams.acquire(&lease, it, None), Ok(()), "an agent of before is put back");
        assert_eq!(streams.admit(&lease, it, None), Ok(()));
        drop(watches);
    }

    #[test]
    fn another_instance_that_is_refused_takes_nothing_from_the_one_that_streams() {
        let streams = Streams::default();
        let lease = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
        let here = Some(BootId(1));
        streams.acquire(&lease, InstanceId(1), here).unwrap();
        let watch = streams.enter(lease.clone(), InstanceId(1), here);
        assert_eq!(streams.acquire(&lease, InstanceId(2), Some(BootId(2))), Ok(()), "the ledger refuses it");
        drop(watch);
        assert_eq!(streams.admit(&lease, InstanceId(1), here), Ok(()));
    }
}
