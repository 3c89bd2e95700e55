//! The histories of networks after a restart, from the batches that the store has kept.
//!
//! A batch tells what a peer has become, not what it was before: of the first change of each peer that is
//! not known, and a client may be told of the removal of a peer that it never had.

use std::collections::HashMap;

use bytes::Bytes;
use loden_proto::names::{NetworkId, NodeId};

use super::Publication;
use super::entry;
use super::history::{Before, History, Step};
use super::shared::Shared;
use super::token::Point;

/// Batches read so far.
pub(super) struct Replay<'a> {
    shared: &'a Shared,
    /// From where on the histories tell everything.
    floor: u64,
    networks: HashMap<NetworkId, Replayed>,
}

struct Replayed {
    history: History,
    /// Peers that have changed, as they are now.
    seen: HashMap<NodeId, Option<Bytes>>,
}

impl<'a> Replay<'a> {
    /// Begins just before the first batch.
    pub(super) fn new(shared: &'a Shared, before: Point) -> Self {
        Self { shared, floor: before.revision, networks: HashMap::new() }
    }

    /// Adds the next batch.
    pub(super) fn add(&mut self, batch: &Publication) {
        if batch.cluster {
            self.floor = batch.point.revision;
            self.networks.clear();
        }
        let mut changed: HashMap<&NetworkId, (Vec<Step>, Option<Bytes>)> = HashMap::new();
        for (id, network) in &batch.networks {
            if let Some(network) = network {
                changed.entry(id).or_default().1 = Some(entry::network(network));
            } else {
                // Tokens from before are of another network with the same name.
                let gone = Replayed::new(self.shared, batch.point.revision);
                self.networks.insert(id.clone(), gone);
            }
        }
        for (id, change) in &batch.peers {
            let (node, after) = self.shared.encoded(change);
            let before = match self.network(id).seen.insert(node.clone(), after.clone()) {
                None => Before::Unknown,
                Some(None) => Before::Absent,
                Some(Some(entry)) => Before::Entry(entry),
            };
            if before != after.clone().map_or(Before::Absent, Before::Entry) {
                changed.entry(id).or_default().0.push(Step { node, before, after });
            }
        }
        for (id, (steps, network)) in changed {
            self.network(id).history.push(batch.point, steps, network);
        }
    }

    /// The history of one network.
    pub(super) fn take(&mut self, id: &NetworkId) -> History {
        let known = self.networks.remove(id).map(|network| network.history);
        known.unwrap_or_else(|| History::new(self.floor, self.shared.options.history))
    }

    fn network(&mut self, id: &NetworkId) -> &mut Replayed {
        let (shared, floor) = (self.shared, self.floor);
        self.networks.entry(id.clone()).or_insert_with(|| Replayed::new(shared, floor))
    }
}

impl Replayed {
    fn new(shared: &Shared, floor: u64) -> Self {
        Self { history: History::new(floor, shared.options.history), seen: HashMap::new() }
    }
}
