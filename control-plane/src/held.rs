//! What we hold for clients: calls that are not done, and answers that are not read.
//!
//! ```text
//!  request ──▶ whole ──▶ room on its connection? ──▶ answer ──▶ hyper ──▶ h2 ──▶ socket
//!  counted as it comes   waits: 256 KiB unread      counted until h2 lets go of its bytes
//!
//!  an answer unread for longer than --max-lag ──▶ its connection ends
//!  more than 256 MiB of all connections       ──▶ who holds most loses its heaviest connection
//! ```
//!
//! A client whose window is shut leaves an answer with hyper, one that opens it by a byte leaves all the rest
//! with h2, which has then taken it from the body. So it is the bytes themselves that tell when they are
//! gone. The answer of a watch is not held: it is made as it is read (`watch`).

mod body;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::body::{Streamed, Whole};
use self::table::Table;
use crate::registry::{EndReason, Link};

/// What is held of all connections at most, in bytes.
const MOST: usize = 256 << 20;
/// What a call costs beside its messages, in bytes: its stream, its task, its headers.
pub(crate) const CALL: usize = 4 << 10;

/// What is held for all clients; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    table: Arc<Mutex<Table>>,
}

impl Default for Held {
    fn default() -> Self {
        Self { table: Arc::new(Mutex::new(Table::new(MOST))) }
    }
}

/// A call of a connection, held until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldCall {
    held: Held,
    link: Arc<Link>,
    bytes: usize,
}

/// An answer of a connection, held until it is dropped.
#[derive(Debug)]
struct HeldAnswer {
    held: Held,
    link: Arc<Link>,
    number: u64,
    bytes: usize,
}

impl Held {
    /// Begins to hold a call.
    pub(crate) fn call(&self, link: &Arc<Link>) -> HeldCall {
        let mut call = HeldCall { held: self.clone(), link: Arc::clone(link), bytes: 0 };
        call.add(CALL);
        call
    }

    /// Begins to hold an answer of so many bytes, with what its call still costs.
    fn answer(&self, link: &Arc<Link>, bytes: usize) -> HeldAnswer {
        let bytes = bytes + CALL;
        let (number, too_much) = {
            let mut table = self.table();
            (table.unread(link, bytes, Instant::now()), table.too_much())
        };
        link.room.fill(bytes);
        end_heaviest(too_much);
        HeldAnswer { held: self.clone(), link: Arc::clone(link), number, bytes }
    }

    /// How much is held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.table().total()
    }

    /// The longest that a client has left an answer unread.
    pub(crate) fn worst_lag(&self, now: Instant) -> Duration {
        self.table().lags(now).map(|(lag, _)| lag).max().unwrap_or_default()
    }

    /// Ends the connections of clients that have left an answer unread for `max_lag`.
    pub(crate) fn end_slow(&self, max_lag: Duration, now: Instant) {
        let slow: Vec<_> = {
            let table = self.table();
            let lags = table.lags(now).filter(|(lag, _)| *lag > max_lag);
            lags.map(|(lag, link)| (lag, Arc::clone(link))).collect()
        };
        for (lag, link) in slow {
            link.end(EndReason::Slow { lag });
        }
    }

    /// A panic elsewhere leaves the table whole: its numbers are changed without one.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldCall {
    /// So many more bytes of its request have come.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        let too_much = {
            let mut table = self.held.table();
            table.add(&self.link, bytes);
            table.too_much()
        };
        end_heaviest(too_much);
    }
}

impl Drop for HeldCall {
    fn drop(&mut self) {
        let gone = self.held.table().remove(&self.link, self.bytes);
        // Only now, without the lock.
        drop(gone);
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        let gone = self.held.table().read(&self.link, self.number, self.bytes);
        self.link.room.clear(self.bytes);
        drop(gone);
    }
}

fn end_heaviest(too_much: Vec<Arc<Link>>) {
    for link in too_much {
        link.end(EndReason::Unread { limit: MOST });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::registry::Registry;

    fn open(registry: &Registry, id: &str) -> Arc<Link> {
        registry.open(crate::registry::testing::client(id), "192.0.2.1:1".parse().unwrap())
    }

    #[test]
    fn an_answer_is_held_until_the_last_of_its_bytes_are_gone() {
        let (held, registry) = (Held::default(), Registry::default());
        let link = open(&registry, "reader/a");
        let mut bytes = held.unread(&link, &[7; 1000]);
        assert_eq!(held.bytes(), 1000 + CALL);
        let part: Bytes = bytes.split_to(10);
        drop(bytes);
        assert_eq!(held.bytes(), 1000 + CALL);
        assert_eq!(part[..], [7; 10]);
        drop(part);
        assert_eq!(held.bytes(), 0);
        drop(link);
        assert!(registry.is_empty());
    }

    #[test]
    fn who_holds_most_is_ended_with_the_reason_and_nobody_else() {
        let held = Held { table: Arc::new(Mutex::new(Table::new(10 * CALL))) };
        let registry = Registry::default();
        let (one, many) = (open(&registry, "node/a"), open(&registry, "reader/b"));
        let _answer = held.unread(&one, &[]);
        let answers: Vec<_> = (0..9).map(|_| held.unread(&many, &[])).collect();
        assert!(one.reason().is_none() && many.reason().is_none());
        let _call = held.call(&one);
        assert!(one.reason().is_none());
        let reason = many.reason().unwrap();
        assert_eq!(reason.label(), "unread");
        assert!(reason.to_string().starts_with("more than 256 MiB are held for clients"), "{reason}");
        drop(answers);
        assert_eq!(held.bytes(), 2 * CALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_oldest_answer_is_unread_for_too_long_is_ended_as_slow() {
        let (held, registry) = (Held::default(), Registry::default());
        let (reads, leaves) = (open(&registry, "node/a"), open(&registry, "node/b"));
        let most = Duration::from_secs(60);
        let left = held.unread(&leaves, b"left");
        let read = held.unread(&reads, b"read");
        tokio::time::advance(most).await;
        drop(read);
        let _next = held.unread(&reads, b"next");
        held.end_slow(most, Instant::now());
        assert!(leaves.reason().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        held.end_slow(most, Instant::now());
        assert_eq!(held.worst_lag(Instant::now()), Duration::from_secs(61));
        assert_eq!(leaves.reason(), Some(&EndReason::Slow { lag: Duration::from_secs(61) }));
        assert!(reads.reason().is_none());
        drop(left);
        assert_eq!(held.worst_lag(Instant::now()), Duration::from_secs(1));
        assert!(reads.room.free().now_or_never().is_some());
    }
}
