//! A strict client, and a feed to watch without a store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use loden_proto::model::InstanceId;
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::{names, v1};
use prost::Message;
use tonic::Status;

use crate::clerk::testing::feed_options;
use crate::feed::testing::{a_network, a_peer};
use crate::feed::{FeedOptions, Feeds, Incarnation, Point, Publication, Scene, TokenKey};
use crate::knocks::Knocks;
use crate::ledger::PeerChange;
use crate::watch::{Streams, Viewer, WatchBody, WatchOpen, WatchRefusal};

/// A client's set of peers, which it changes as the protocol says and never otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Set {
    pub(crate) peers: BTreeMap<String, v1::Peer>,
    pub(crate) network: Option<v1::Network>,
    pub(crate) adopting: bool,
    pub(crate) token: Bytes,
}

/// What one look at a watch brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Brought {
    pub(crate) snapshots: usize,
    pub(crate) deltas: usize,
    pub(crate) heartbeats: usize,
}

pub(crate) struct Client {
    pub(crate) body: WatchBody,
    pub(crate) set: Set,
    pub(crate) ended: Option<Status>,
    /// Whether removals of unknown peers are forgiven: history after a restart cannot tell.
    pub(crate) lenient: bool,
    page: Vec<v1::Peer>,
    delta: Option<v1::Delta>,
}

impl Client {
    pub(crate) fn new(body: WatchBody, set: Set) -> Self {
        Self { body, set, ended: None, lenient: false, page: Vec::new(), delta: None }
    }

    /// Reads until there is nothing to read.
    pub(crate) async fn read(&mut self) -> Brought {
        let mut brought = Brought::default();
        // The bell is rung by a task.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        while self.ended.is_none() {
            tokio::task::yield_now().await;
            let Some(Some(frame)) = self.body.frame().now_or_never() else { break };
            match frame.unwrap().into_data() {
                Ok(data) => self.message(&data, &mut brought),
                Err(frame) => self.ended = Status::from_header_map(&frame.into_trailers().unwrap()),
            }
        }
        brought
    }

    fn message(&mut self, frame: &[u8], brought: &mut Brought) {
        let message = v1::WatchPeersResponse::decode(&frame[5..]).unwrap();
        let bookmarked = match message.update.unwrap() {
            Update::Snapshot(page) => self.snapshot(page, brought),
            Update::Delta(delta) => self.delta(delta, brought),
            Update::Heartbeat(heartbeat) => {
                brought.heartbeats += 1;
                assert_eq!(heartbeat.adopting, self.set.adopting, "only a snapshot changes it");
                true
            }
        };
        assert_eq!(bookmarked, !message.resume_token.is_empty(), "a token exactly when whole");
        if bookmarked {
            self.set.token = message.resume_token.into();
        }
    }

    fn snapshot(&mut self, page: v1::SnapshotPage, brought: &mut Brought) -> bool {
        assert!(self.delta.is_none(), "a snapshot within a delta");
        self.page.extend(page.peers);
        if !page.last {
            return false;
        }
        brought.snapshots += 1;
        let peers = std::mem::take(&mut self.page);
        assert!(peers.windows(2).all(|two| two[0].node < two[1].node), "ordered and unique");
        self.set.peers = peers.into_iter().map(|peer| (peer.node.clone(), peer)).collect();
        self.set.network = page.network;
        self.set.adopting = page.adopting;
        true
    }

    fn delta(&mut self, page: v1::Delta, brought: &mut Brought) -> bool {
        assert!(self.page.is_empty(), "a delta within a snapshot");
        let delta = self.delta.get_or_insert_default();
        delta.upserts.extend(page.upserts);
        delta.removed.extend(page.removed);
        if !page.last {
            return false;
        }
        brought.deltas += 1;
        let delta = self.delta.take().unwrap();
        for peer in delta.upserts {
            let held = self.set.peers.insert(peer.node.clone(), peer.clone());
            assert!(held.as_ref() != Some(&peer) || self.lenient, "told twice: {peer:?}");
        }
        for node in delta.removed {
            assert!(self.set.peers.remove(&node).is_some() || self.lenient, "removed, never told: {node}");
        }
        if page.network.is_some() {
            self.set.network = page.network;
        }
        true
    }
}

/// The feed of the network `blue`, and what a watcher must see of it.
pub(crate) struct Stage {
    pub(crate) feeds: Feeds,
    pub(crate) streams: Streams,
    pub(crate) point: Point,
    pub(crate) scene: Scene,
    /// What there was at each revision.
    past: BTreeMap<u64, Scene>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(feed_options())
    }

    pub(crate) fn with(options: FeedOptions) -> Self {
        let feeds = Feeds::new(TokenKey::new(b"key"), Knocks::default(), options);
        let incarnation = Incarnation { id: 1, ..Incarnation::default() };
        let scene = Scene { incarnation, networks: vec![(a_network("blue"), vec![])] };
        let point = Point { revision: 100, hash: 1 };
        feeds.begin(point, &[], &scene);
        let past = BTreeMap::from([(point.revision, scene.clone())]);
        Self { feeds, streams: Streams::default(), point, scene, past }
    }

    /// Publishes the next batch.
    pub(crate) fn publish(&mut self, peers: Vec<PeerChange>) {
        for change in &peers {
            let held = &mut self.scene.networks[0].1;
            let node = match change {
                PeerChange::Upsert(peer) => &peer.node,
                PeerChange::Removed(node) => node,
            };
            held.retain(|peer| peer.node != *node);
            if let PeerChange::Upsert(peer) = change {
                held.push(peer.clone());
                held.sort_by(|a, b| a.node.cmp(&b.node));
            }
        }
        let blue = self.scene.networks[0].0.id.clone();
        let peers = peers.into_iter().map(|change| (blue.clone(), change)).collect();
        self.publish_batch(Publication { peers, ..Publication::default() });
    }

    pub(crate) fn publish_batch(&mut self, publication: Publication) {
        self.point = Point {
            revision: self.point.revision + 1,
            hash: self.point.hash.wrapping_mul(31).wrapping_add(7),
        };
        let scene = self.scene.clone();
        self.past.insert(self.point.revision, scene.clone());
        self.feeds.publish(Publication { point: self.point, ..publication }, || scene);
    }

    pub(crate) fn upsert(&mut self, node: &str, n: usize) {
        self.publish(vec![upsert(node, n)]);
    }

    pub(crate) fn remove(&mut self, node: &str) {
        self.publish(vec![removed(node)]);
    }

    pub(crate) fn try_open(&self, viewer: &Viewer, token: &Bytes) -> Result<WatchBody, WatchRefusal> {
        let network = "blue".parse().unwrap();
        let open = WatchOpen { network, token: token.clone(), viewer: viewer.clone() };
        self.feeds.watch(&self.streams, open)
    }

    pub(crate) fn open(&self, viewer: &Viewer, set: Set) -> Client {
        Client::new(self.try_open(viewer, &set.token).unwrap(), set)
    }

    /// What a viewer's set must be once it has read everything.
    pub(crate) fn expected(&self, viewer: &Viewer) -> BTreeMap<String, v1::Peer> {
        let seen = self.scene.networks[0].1.iter().filter(|peer| Some(&peer.node) != viewer.node());
        seen.map(|peer| (peer.node.to_string(), v1::Peer::from(peer))).collect()
    }

    /// Asserts that a set is exactly what there was at the point that its token names.
    pub(crate) fn assert_true(&self, viewer: &Viewer, set: &Set) {
        let blue = &self.scene.networks[0].0.id;
        let revision = self.feeds.open_token(blue, &set.token).unwrap().point.revision;
        let (network, peers) = &self.past[&revision].networks[0];
        let seen = peers.iter().filter(|peer| Some(&peer.node) != viewer.node());
        let seen: BTreeMap<_, _> = seen.map(|peer| (peer.node.to_string(), v1::Peer::from(peer))).collect();
        assert_eq!(set.peers, seen, "at revision {revision}");
        assert_eq!(set.network, Some(v1::Network::from(network)), "at revision {revision}");
    }

    pub(crate) fn network(&self) -> Option<v1::Network> {
        Some(v1::Network::from(&self.scene.networks[0].0))
    }
}

pub(crate) fn upsert(node: &str, n: usize) -> PeerChange {
    PeerChange::Upsert(a_peer(node, n))
}

pub(crate) fn removed(node: &str) -> PeerChange {
    PeerChange::Removed(node.parse().unwrap())
}

pub(crate) fn node(name: &str) -> Viewer {
    Viewer::Node { node: name.parse().unwrap(), instance: InstanceId(1), boot: None }
}

/// Lets time pass for heartbeats and pauses.
pub(crate) async fn pass(duration: Duration) {
    tokio::time::advance(duration).await;
}

pub(crate) fn resource_name() -> String {
    names::network(&"blue".parse().unwrap())
}
