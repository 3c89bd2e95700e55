//! What watchers are told: per network the peers, encoded once, and a bounded history that all pull from.
//!
//! ```text
//!  committed batch ──▶ Feeds::publish ──▶ NetworkFeed (entries, history) ──bell──▶ WatchBody ─┐
//!                                              ▲                                              │
//!                                              └── pull(cursor): snapshot, fold or nothing ───┘
//! ```
//!
//! There is no queue per watcher. One that is slow gets everything it has missed as one change, or the
//! whole set anew if history does not reach back that far.

mod debounce;
mod entry;
mod frames;
mod history;
mod network;
mod replay;
mod shared;
mod token;
mod verdict;
mod window;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use loden_proto::model::{Network, Peer};
use loden_proto::names::{NetworkId, NodeId};

use crate::knocks::Knocks;
use crate::ledger::PeerChange;

pub use history::HistoryLimits;
pub(crate) use network::{Cursor, Ended, NetworkFeed};
pub use shared::{FeedCounters, FeedOptions};
pub use token::{Point, TOKEN_BYTES, Token, TokenKey};
pub use verdict::{Incarnation, TokenVerdict};

use history::History;
use network::Beginning;
use replay::Replay;
use shared::Shared;
use window::Window;

/// What one committed batch means to watchers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Publication {
    /// Where the store is with it.
    pub point: Point,
    /// Peers that changed.
    pub peers: Vec<(NetworkId, PeerChange)>,
    /// Networks that changed; `None` is gone.
    pub networks: Vec<(NetworkId, Option<Network>)>,
    /// Whether the store's incarnation changed, or whether it adopts.
    pub cluster: bool,
}

/// All that watchers may see, at one point.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scene {
    /// The life of the store.
    pub incarnation: Incarnation,
    /// Every network with its peers.
    pub networks: Vec<(Network, Vec<Peer>)>,
}

/// What one batch does to one network, encoded.
#[derive(Debug, Default)]
struct Changed {
    network: Option<Bytes>,
    /// `None` is gone.
    peers: Vec<(NodeId, Option<Bytes>)>,
}

/// The feeds of all networks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Feeds {
    shared: Arc<Shared>,
    feeds: Arc<RwLock<HashMap<NetworkId, Arc<NetworkFeed>>>>,
}

impl Feeds {
    /// No network yet. `key` authenticates tokens and must outlive the store; as long as `knocks` count it is new,
    /// and those of another key are taken for its predecessor's.
    #[must_use]
    pub fn new(key: TokenKey, knocks: Knocks, options: FeedOptions) -> Self {
        Self { shared: Arc::new(Shared::new(key, knocks, options)), feeds: Arc::default() }
    }

    /// What has been encoded so far.
    #[must_use]
    pub fn counters(&self) -> &FeedCounters {
        &self.shared.counters
    }

    /// How often watches carry a sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> std::time::Duration {
        self.shared.options.heartbeat
    }

    /// Begins with what the store holds and its recent history, so that tokens from before a restart are
    /// good: `before` is where the store was before the first batch of `history`, whose last batch led to
    /// `scene`.
    pub fn begin(&self, before: Point, history: &[Publication], scene: &Scene) {
        let mut window = Window::new(before);
        history.iter().for_each(|batch| window.push(batch.point));
        let point = window.newest();
        let mut replay = Replay::new(&self.shared, before);
        if !scene.incarnation.adopting {
            history.iter().for_each(|batch| replay.add(batch));
        }
        self.shared.restart(window);
        *self.incarnation_mut() = scene.incarnation.clone();
        let mut feeds = self.feeds_mut();
        feeds.clear();
        for (network, peers) in &scene.networks {
            let history = if scene.incarnation.adopting {
                // Not every lease that changes is seen while adopting, and a batch does not tell which.
                History::new(point.revision, self.shared.options.history)
            } else {
                replay.take(&network.id)
            };
            let beginning = Beginning {
                network: entry::network(network),
                entries: self.entries(peers),
                point: if scene.incarnation.adopting { point } else { history.newest().unwrap_or(before) },
                history,
                incarnation: scene.incarnation.id,
                adopting: scene.incarnation.adopting,
            };
            let feed = NetworkFeed::new(network.id.clone(), Arc::clone(&self.shared), beginning);
            feeds.insert(network.id.clone(), Arc::new(feed));
        }
    }

    /// Tells watchers of one committed batch. Batches come in order, from one task. `scene` is asked for
    /// only if the cluster changed, and is what there is to see after the batch.
    pub fn publish(&self, publication: Publication, scene: impl FnOnce() -> Scene) {
        let Publication { point, peers, networks, cluster } = publication;
        self.shared.announce(point);
        if cluster {
            self.reset(point, &scene());
        } else if !peers.is_empty() || !networks.is_empty() {
            self.publish_changes(point, peers, networks);
        }
        self.shared.reached(point);
    }

    /// What a token tells about the store.
    #[must_use]
    pub fn judge(&self, network: &NetworkId, token: &[u8]) -> TokenVerdict {
        self.shared.judge(network, token)
    }

    /// The revision of a network's newest change; `None` if there is no such network. When the store's history
    /// has none, it is where that begins.
    #[must_use]
    pub fn last_change(&self, network: &NetworkId) -> Option<u64> {
        self.network(network).map(|feed| feed.last_change())
    }

    /// The life of the store, as watchers see it.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The point that a token names, if it is one of ours for this network.
    #[must_use]
    pub fn open_token(&self, network: &NetworkId, token: &[u8]) -> Option<Token> {
        self.shared.key.open(network, token)
    }

    pub(crate) fn network(&self, network: &NetworkId) -> Option<Arc<NetworkFeed>> {
        self.feeds().get(network).cloned()
    }

    fn publish_changes(
        &self,
        point: Point,
        peers: Vec<(NetworkId, PeerChange)>,
        networks: Vec<(NetworkId, Option<Network>)>,
    ) {
        let mut changed: HashMap<NetworkId, Changed> = HashMap::new();
        for (id, network) in networks {
            let Some(network) = network else {
                if let Some(feed) = self.feeds_mut().remove(&id) {
                    feed.close();
                }
                continue;
            };
            let record = entry::network(&network);
            if self.feeds().contains_key(&id) {
                changed.entry(id).or_default().network = Some(record);
            } else {
                self.create(id, record, point);
            }
        }
        for (id, change) in peers {
            changed.entry(id).or_default().peers.push(self.shared.encoded(&change));
        }
        for (id, Changed { network, peers }) in changed {
            if let Some(feed) = self.network(&id) {
                feed.publish(point, network, peers);
            }
        }
    }

    fn create(&self, id: NetworkId, network: Bytes, point: Point) {
        let incarnation = self.incarnation();
        let beginning = Beginning {
            network,
            entries: BTreeMap::new(),
            // A token from before is of another network with the same name.
            history: History::new(point.revision, self.shared.options.history),
            point,
            incarnation: incarnation.id,
            adopting: incarnation.adopting,
        };
        let feed = NetworkFeed::new(id.clone(), Arc::clone(&self.shared), beginning);
        self.feeds_mut().insert(id, Arc::new(feed));
    }

    fn reset(&self, point: Point, scene: &Scene) {
        let Incarnation { id, adopting, .. } = scene.incarnation;
        *self.incarnation_mut() = scene.incarnation.clone();
        let mut gone = self.feeds().clone();
        for (network, peers) in &scene.networks {
            gone.remove(&network.id);
            let known = self.network(&network.id);
            if known.is_none() {
                self.create(network.id.clone(), entry::network(network), point);
            }
            if let Some(feed) = known.or_else(|| self.network(&network.id)) {
                feed.reset(point, id, adopting, entry::network(network), self.entries(peers));
            }
        }
        for (id, feed) in gone {
            self.feeds_mut().remove(&id);
            feed.close();
        }
    }

    fn entries(&self, peers: &[Peer]) -> BTreeMap<NodeId, Bytes> {
        self.shared.counters.entry_encodings.inc_by(peers.len() as u64);
        peers.iter().map(|peer| (peer.node.clone(), entry::peer(peer))).collect()
    }

    fn incarnation_mut(&self) -> RwLockWriteGuard<'_, Incarnation> {
        self.shared.incarnation.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn feeds(&self) -> RwLockReadGuard<'_, HashMap<NetworkId, Arc<NetworkFeed>>> {
        self.feeds.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn feeds_mut(&self) -> RwLockWriteGuard<'_, HashMap<NetworkId, Arc<NetworkFeed>>> {
        self.feeds.write().unwrap_or_else(PoisonError::into_inner)
    }
}
