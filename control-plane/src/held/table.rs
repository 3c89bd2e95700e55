//! Who holds how much since when, and who goes when it is too much.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::{Link, Party};

/// What is held, by connection.
#[derive(Debug)]
pub(super) struct Table {
    most: usize,
    /// Of all connections but those that have been chosen to end.
    total: usize,
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    link: Arc<Link>,
    bytes: usize,
    /// Since when each of its answers is unread, oldest first.
    answers: BTreeMap<u64, Instant>,
    chosen: bool,
}

impl Table {
    /// One that holds `most` bytes at most.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, total: 0, next: 0, connections: BTreeMap::new() }
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// A connection has that many bytes more.
    pub(super) fn add(&mut self, link: &Arc<Link>, bytes: usize) {
        let connection = self.connections.entry(link.number()).or_insert_with(|| Connection {
            link: Arc::clone(link),
            bytes: 0,
            answers: BTreeMap::new(),
            chosen: false,
        });
        connection.bytes += bytes;
        if !connection.chosen {
            self.total += bytes;
        }
    }

    /// A connection has that many bytes less; answers with what is to be dropped when it has none.
    pub(super) fn remove(&mut self, link: &Link, bytes: usize) -> Option<Arc<Link>> {
        let connection = self.connections.get_mut(&link.number())?;
        connection.bytes = connection.bytes.saturating_sub(bytes);
        if !connection.chosen {
            self.total = self.total.saturating_sub(bytes);
        }
        if connection.bytes > 0 || !connection.answers.is_empty() {
            return None;
        }
        self.connections.remove(&link.number()).map(|connection| connection.link)
    }

    /// A connection has one more answer that is unread; answers with its number.
    pub(super) fn unread(&mut self, link: &Arc<Link>, bytes: usize, now: Instant) -> u64 {
        self.add(link, bytes);
        self.next += 1;
        if let Some(connection) = self.connections.get_mut(&link.number()) {
            connection.answers.insert(self.next, now);
        }
        self.next
    }

    /// An answer was read.
    pub(super) fn read(&mut self, link: &Link, number: u64, bytes: usize) -> Option<Arc<Link>> {
        if let Some(connection) = self.connections.get_mut(&link.number()) {
            connection.answers.remove(&number);
        }
        self.remove(link, bytes)
    }

    /// How long each connection has left its oldest answer unread.
    pub(super) fn lags(&self, now: Instant) -> impl Iterator<Item = (Duration, &Arc<Link>)> {
        self.connections.values().filter_map(move |connection| {
            let (_, since) = connection.answers.first_key_value()?;
            Some((now.saturating_duration_since(*since), &connection.link))
        })
    }

    /// The connections that are to end so that the rest is not too much. They no longer count.
    pub(super) fn too_much(&mut self) -> Vec<Arc<Link>> {
        let mut ending = Vec::new();
        while self.total > self.most {
            let Some(connection) = self.heaviest().and_then(|number| self.connections.get_mut(&number))
            else {
                break;
            };
            connection.chosen = true;
            self.total = self.total.saturating_sub(connection.bytes);
            ending.push(Arc::clone(&connection.link));
        }
        ending
    }

    /// The heaviest connection of the identity that holds most.
    fn heaviest(&self) -> Option<u64> {
        let left = || self.connections.iter().filter(|(_, connection)| !connection.chosen);
        let mut parties: HashMap<Party, usize> = HashMap::new();
        for (_, connection) in left() {
            *parties.entry(connection.link.client.party()).or_default() += connection.bytes;
        }
        let weight = |(number, connection): &(&u64, &Connection)| {
            let party = parties.get(&connection.link.client.party()).copied();
            (party, connection.bytes, std::cmp::Reverse(**number))
        };
        left().max_by_key(weight).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn open(registry: &Registry, id: &str) -> Arc<Link> {
        registry.open(crate::registry::testing::client(id), "192.0.2.1:1".parse().unwrap())
    }

    fn numbers(links: &[Arc<Link>]) -> Vec<u64> {
        links.iter().map(|link| link.number()).collect()
    }

    #[test]
    fn who_holds_most_over_all_connections_loses_the_heaviest_of_them() {
        let (registry, mut table) = (Registry::default(), Table::new(100));
        let light = open(&registry, "node/a");
        let many: Vec<_> = (0..3).map(|_| open(&registry, "reader/b")).collect();
        table.add(&light, 40);
        for (link, bytes) in many.iter().zip([15, 25, 20]) {
            table.add(link, bytes);
        }
        assert_eq!((table.total(), table.too_much().len()), (100, 0));
        // It comes from one that may stay.
        table.add(&light, 1);
        assert_eq!(numbers(&table.too_much()), [many[1].number()]);
        assert_eq!(table.total(), 76);
        // What still comes to, and goes from, the one that ends changes nothing.
        table.add(&many[1], 500);
        assert_eq!((table.total(), table.too_much().len()), (76, 0));
        drop(table.remove(&many[1], 525));
        assert_eq!(table.total(), 76);
        // Of equal ones the oldest goes, and no more than have to.
        table.add(&many[0], 5);
        table.add(&many[2], 60);
        assert_eq!(numbers(&table.too_much()), [many[2].number()]);
        table.add(&light, 100);
        assert_eq!(numbers(&table.too_much()), [light.number()]);
        assert_eq!(table.total(), 20);
    }

    #[test]
    fn a_connection_lags_by_its_oldest_answer() {
        let (registry, mut table) = (Registry::default(), Table::new(100));
        let (a, b) = (open(&registry, "node/a"), open(&registry, "node/b"));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let begin = at(0);
        let lag = |table: &Table, seconds: u64| {
            let lags = table.lags(begin + Duration::from_secs(seconds));
            lags.map(|(lag, link)| (link.number(), lag.as_secs())).collect::<Vec<_>>()
        };
        // A call that is under way is nothing that is unread.
        table.add(&a, 7);
        assert_eq!(lag(&table, 100), []);
        let first = table.unread(&a, 10, begin);
        let second = table.unread(&a, 10, begin + Duration::from_secs(5));
        let other = table.unread(&b, 10, begin + Duration::from_secs(8));
        assert_eq!(lag(&table, 10), [(a.number(), 10), (b.number(), 2)]);
        assert!(table.read(&a, first, 10).is_none());
        assert_eq!(lag(&table, 10), [(a.number(), 5), (b.number(), 2)]);
        assert!(table.read(&b, other, 10).is_some());
        assert!(table.read(&a, second, 10).is_none());
        assert!(table.remove(&a, 7).is_some());
        assert!(table.connections.is_empty() && table.total() == 0);
    }
}
