//! Who is connected, and how to end it.
//!
//! ```text
//! connection ──open──▶ Link ──▶ request extensions ──▶ its watches
//!                       ▲
//!  slow · unread · silent · too many · second instance · drained ──end(reason)
//!  shutdown · age · shed ──drain(parting): its watches end, calls are finished, and it closes
//! ```
//!
//! A stuck client's stream is not polled any more, so it can only be ended by its connection. The first
//! reason that is given stays; it goes to log, metric and node status.

mod client;
mod end_reason;
mod parting;
pub(crate) mod room;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use loden_proto::names::NodeId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::client::Party;
pub use self::client::{Client, PER_NODE, PER_OTHER, PER_SOURCE};
pub use self::end_reason::EndReason;
pub use self::parting::Parting;

use self::room::Room;

/// Calls of health and reflection that a connection may have at once; they may last for ever.
pub(crate) const STREAMS: usize = 8;

/// One connection, shared by its task, its requests and the registry.
#[derive(Debug)]
pub struct Link {
    number: u64,
    /// The other side.
    pub client: Client,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// Room for its answers.
    pub(crate) room: Room,
    /// Places for its calls of health and reflection.
    pub(crate) streams: Arc<Semaphore>,
    reason: OnceLock<EndReason>,
    ended: CancellationToken,
    parting: OnceLock<Parting>,
    draining: CancellationToken,
    registry: Weak<Inner>,
}

impl Link {
    /// Its number, unique in this process.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Ends the connection at once, whatever its streams do.
    pub fn end(&self, reason: EndReason) {
        // The first reason stays.
        let _ = self.reason.set(reason);
        self.ended.cancel();
    }

    /// Asks the client to come back over another connection: watches end, calls that are under way do not. Answers
    /// whether nobody has asked before; the first reason stays.
    pub fn drain(&self, why: Parting) -> bool {
        let first = self.parting.set(why).is_ok();
        self.draining.cancel();
        first
    }

    /// Why the client was asked to go, if it was.
    #[must_use]
    pub fn parting(&self) -> Option<Parting> {
        self.parting.get().copied()
    }

    /// Why we ended it, if we did.
    #[must_use]
    pub fn reason(&self) -> Option<&EndReason> {
        self.reason.get()
    }

    /// Cancelled when the connection must be closed at once.
    #[must_use]
    pub const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Cancelled when its watches should end and it should close.
    #[must_use]
    pub const fn draining(&self) -> &CancellationToken {
        &self.draining
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.table().remove(self.number, &self.client.party());
        }
    }
}

/// All connections.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<u64, Weak<Link>>,
    /// Numbers of a party's connections, oldest first.
    parties: HashMap<Party, Vec<u64>>,
    /// Why nobody may stay.
    draining: Option<Parting>,
}

impl Registry {
    /// Registers a connection until its last [`Link`] is dropped. The oldest one of its
    /// identity ends if that has too many.
    #[must_use]
    pub fn open(&self, client: Client, remote: SocketAddr) -> Arc<Link> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link {
            number,
            client,
            remote,
            room: Room::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            reason: OnceLock::new(),
            ended: CancellationToken::new(),
            parting: OnceLock::new(),
            draining: CancellationToken::new(),
            registry: Arc::downgrade(&self.inner),
        });
        let mut oldest = None;
        let mut table = self.inner.table();
        if let Some(why) = table.draining {
            link.drain(why);
        }
        table.links.insert(number, Arc::downgrade(&link));
        let limit = link.client.limit();
        let numbers = table.parties.entry(link.client.party()).or_default();
        numbers.push(number);
        if numbers.len() > limit {
            let first = numbers.remove(0);
            oldest = table.links.get(&first).and_then(Weak::upgrade);
        }
        // Dropping a link takes the lock.
        drop(table);
        if let Some(oldest) = oldest {
            oldest.end(EndReason::TooMany { limit });
        }
        link
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.table().links.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All connections, oldest first. From now on new ones are told to drain as they open.
    #[must_use]
    pub fn begin_drain(&self, why: Parting) -> Vec<Weak<Link>> {
        let mut table = self.inner.table();
        table.draining = Some(why);
        table.links.values().cloned().collect()
    }

    /// Ends all connections at once.
    pub fn end_all(&self, reason: &EndReason) {
        for link in self.links() {
            link.end(reason.clone());
        }
    }

    /// Whether a node is connected.
    #[must_use]
    pub fn holds(&self, node: &NodeId) -> bool {
        self.links().iter().any(|link| link.client.node() == Some(node))
    }

    /// The connections of nodes that were not asked to go, oldest first.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Link>> {
        let mut links = self.links();
        links.retain(|link| link.client.node().is_some() && link.parting().is_none());
        links
    }

    /// The connections of one node, oldest first; those of others are not touched.
    #[must_use]
    pub fn links_of(&self, node: &NodeId) -> Vec<Arc<Link>> {
        // Dropping a link takes the lock.
        let links = self.inner.table().of(node);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// All connections, oldest first.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        // Dropping a link takes the lock.
        let links: Vec<_> = self.inner.table().links.values().cloned().collect();
        links.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Inner {
    /// A panic elsewhere leaves the table whole: every change is one statement or two inserts.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(&self, node: &NodeId) -> Vec<Weak<Link>> {
        let parties = self.parties.iter().filter(|(party, _)| party.node() == Some(node));
        let numbers = parties.flat_map(|(_, numbers)| numbers);
        numbers.filter_map(|number| self.links.get(number).cloned()).collect()
    }

    fn remove(&mut self, number: u64, party: &Party) {
        self.links.remove(&number);
        if let Some(numbers) = self.parties.get_mut(party) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.parties.remove(party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open(registry: &Registry, id: &str) -> Arc<Link> {
        registry.open(testing::client(id), "192.0.2.1:1".parse().unwrap())
    }

    #[test]
    fn the_oldest_of_too_many_connections_of_an_identity_ends() {
        for (id, limit) in [("node/a", PER_NODE), ("admin/a", PER_OTHER), ("reader/a", PER_OTHER)] {
            let registry = Registry::default();
            let links: Vec<_> = (0..limit).map(|_| open(&registry, id)).collect();
            let other = open(&registry, "node/b");
            assert!(links.iter().chain([&other]).all(|link| link.reason().is_none()));
            let newest = open(&registry, id);
            assert_eq!(links[0].reason(), Some(&EndReason::TooMany { limit }));
            assert!(links[0].ended().is_cancelled());
            assert!(links[1].reason().is_none() && newest.reason().is_none() && other.reason().is_none());
            drop((links, newest, other));
            assert!(registry.is_empty() && registry.inner.table().parties.is_empty());
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let registry = Registry::default();
        let link = open(&registry, "node/a");
        link.end(EndReason::Slow { lag: Duration::from_secs(61) });
        registry.end_all(&EndReason::Drained);
        assert_eq!(link.reason().unwrap().to_string(), "the client has not read for 61 s");
    }

    #[test]
    fn a_connection_that_opens_during_a_drain_drains() {
        let registry = Registry::default();
        let early = open(&registry, "node/a");
        let why = Parting::ShutDown { elsewhere: true };
        assert_eq!(registry.begin_drain(why).len(), 1);
        assert!(!early.draining().is_cancelled() && early.parting().is_none(), "each in its turn");
        let late = open(&registry, "node/b");
        assert!(late.draining().is_cancelled());
        assert_eq!(late.parting(), Some(why));
        assert!(early.drain(why) && !early.drain(Parting::ShutDown { elsewhere: false }));
        assert_eq!(early.parting(), Some(why), "the first one stays");
    }
}
