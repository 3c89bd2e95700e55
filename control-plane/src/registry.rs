//! Who is connected, and how to end it.
//!
//! ```text
//! connection ──open──▶ Link ──▶ request extensions ──▶ its watches
//!                       ▲
//!  slow · unread · silent · too many · second instance · drain ──end(reason)
//! ```
//!
//! A stuck client's stream is not polled any more, so it can only be ended by its connection. The first
//! reason that is given stays; it goes to log, metric and node status.

mod client;
pub(crate) mod room;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use loden_proto::names::NodeId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::client::Party;
pub use self::client::{Client, PER_NODE, PER_OTHER, PER_SOURCE};

use self::room::Room;

/// Calls of health and reflection that a connection may have at once; they may last for ever.
pub(crate) const STREAMS: usize = 8;

/// Why a connection was ended by us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// The identity, or the source of hosts without one, has opened more connections than it may; the oldest goes.
    TooMany {
        /// How many it may have.
        limit: usize,
    },
    /// The client has not begun HTTP/2.
    NoPreface {
        /// How long it could have.
        after: Duration,
    },
    /// The client has not read for so long.
    Slow {
        /// Since it last took something.
        lag: Duration,
    },
    /// Too much is held for clients that do not read, and most of it for this one.
    Unread {
        /// How much is held for all of them at most, in bytes.
        limit: usize,
    },
    /// Nothing has come from the client for too long, not even the answer to a ping.
    Silent,
    /// The node was shut out.
    Revoked,
    /// The client's certificate has ended long ago, and it has shown no other one.
    Expired,
    /// Its CA is trusted no more.
    Retired,
    /// A host that came to join is still there.
    Joining {
        /// How long it could have.
        after: Duration,
    },
    /// The server is shutting down and the client has not gone by itself.
    Drained,
}

impl EndReason {
    /// Every kind, for metrics.
    pub(crate) const LABELS: [&str; 10] = [
        "too_many",
        "no_preface",
        "slow",
        "unread",
        "silent",
        "drained",
        "revoked",
        "expired",
        "joining",
        "retired",
    ];

    /// The kind, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => Self::LABELS[0],
            Self::NoPreface { .. } => Self::LABELS[1],
            Self::Slow { .. } => Self::LABELS[2],
            Self::Unread { .. } => Self::LABELS[3],
            Self::Silent => Self::LABELS[4],
            Self::Drained => Self::LABELS[5],
            Self::Revoked => Self::LABELS[6],
            Self::Expired => Self::LABELS[7],
            Self::Joining { .. } => Self::LABELS[8],
            Self::Retired => Self::LABELS[9],
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit } => {
                write!(f, "more than {limit} connections of one identity; the oldest was ended")
            }
            Self::NoPreface { after } => {
                write!(f, "the client has not begun HTTP/2 within {} s", after.as_secs())
            }
            Self::Slow { lag } => write!(f, "the client has not read for {} s", lag.as_secs()),
            Self::Unread { limit } => write!(
                f,
                "more than {} MiB are held for clients that do not read, most of it for this one",
                limit >> 20
            ),
            Self::Silent => f.write_str("the client does not answer, not even to a ping"),
            Self::Revoked => f.write_str("the node was revoked"),
            Self::Expired => f.write_str("the client's certificate has ended, and it has shown no other one"),
            Self::Retired => f.write_str("the CA of the client's certificate is trusted no more"),
            Self::Joining { after } => {
                write!(f, "a host without a certificate may stay {} s to join", after.as_secs())
            }
            Self::Drained => f.write_str("the server shut down"),
        }
    }
}

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

    /// Lets the client go in an orderly way.
    pub fn drain(&self) {
        self.draining.cancel();
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

    /// Cancelled when its streams should end and it should close.
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
    draining: bool,
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
            draining: CancellationToken::new(),
            registry: Arc::downgrade(&self.inner),
        });
        let mut oldest = None;
        let mut table = self.inner.table();
        if table.draining {
            link.draining.cancel();
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
    pub fn begin_drain(&self) -> Vec<Weak<Link>> {
        let mut table = self.inner.table();
        table.draining = true;
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
        assert_eq!(registry.begin_drain().len(), 1);
        assert!(!early.draining().is_cancelled(), "each in its turn");
        assert!(open(&registry, "node/b").draining().is_cancelled());
    }
}
