use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::client::{Brought, Client, Set, Stage, node, pass, removed, upsert};
use crate::clerk::testing::feed_options;
use crate::feed::{FeedOptions, HistoryLimits, Incarnation, Publication};
use crate::ledger::PeerChange;
use crate::watch::{Viewer, WatchRefusal};

const SNAPSHOT: Brought = Brought { snapshots: 1, deltas: 0, heartbeats: 0 };
const DELTA: Brought = Brought { snapshots: 0, deltas: 1, heartbeats: 0 };
const HEARTBEAT: Brought = Brought { snapshots: 0, deltas: 0, heartbeats: 1 };
const NOTHING: Brought = Brought { snapshots: 0, deltas: 0, heartbeats: 0 };

#[tokio::test(start_paused = true)]
async fn an_open_is_answered_at_once_and_every_change_follows() {
    let mut stage = Stage::new();
    stage.upsert("a", 1);
    let mut client = stage.open(&Viewer::Observer, Set::default());
    assert_eq!(client.read().await, SNAPSHOT);
    assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
    assert_eq!(client.set.network, stage.network());
    stage.publish(vec![upsert("b", 2), removed("a")]);
    assert_eq!(client.read().await, DELTA);
    assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_told_of_everybody_but_itself() {
    let mut stage = Stage::new();
    stage.publish(vec![upsert("a", 1), upsert("b", 2), upsert("c", 3)]);
    let viewer = node("b");
    let mut client = stage.open(&viewer, Set::default());
    client.read().await;
    assert_eq!(client.set.peers.keys().collect::<Vec<_>>(), ["a", "c"]);
    stage.upsert("b", 4);
    assert_eq!(client.read().await, HEARTBEAT, "how far it is");
    let blue = "blue".parse().unwrap();
    assert_eq!(stage.feeds.open_token(&blue, &client.set.token).unwrap().point, stage.point);
    stage.publish(vec![upsert("b", 5), upsert("c", 6)]);
    assert_eq!(client.read().await, DELTA);
    assert_eq!(client.set.peers, stage.expected(&viewer));
}

#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_not_told() {
    let mut stage = Stage::new();
    stage.upsert("a", 1);
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    stage.upsert("a", 1);
    stage.remove("stranger");
    assert_eq!(client.read().await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_bookmarks_also_what_does_not_concern_the_network() {
    let mut stage = Stage::new();
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    for _ in 0..5 {
        stage.publish_batch(Publication::default());
    }
    let old = client.set.token.clone();
    pass(Duration::from_secs(3)).await;
    assert_eq!(client.read().await, HEARTBEAT);
    assert_ne!(client.set.token, old);
    let blue = "blue".parse().unwrap();
    assert_eq!(stage.feeds.open_token(&blue, &client.set.token).unwrap().point, stage.point);
    let mut again = stage.open(&Viewer::Observer, client.set.clone());
    assert_eq!(again.read().await, HEARTBEAT);
    pass(Duration::from_secs(2)).await;
    assert_eq!(client.read().await, NOTHING, "not before its time");
}

#[tokio::test(start_paused = true)]
async fn a_known_token_gets_what_has_changed_since_as_one_delta() {
    let mut stage = Stage::new();
    stage.publish(vec![upsert("a", 1), upsert("b", 2)]);
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    let Client { set, .. } = client;
    stage.upsert("a", 3);
    stage.remove("b");
    stage.upsert("c", 1);
    stage.upsert("c", 2);
    stage.upsert("d", 1);
    stage.remove("d");
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let mut again = stage.open(&Viewer::Observer, set);
    assert_eq!(again.read().await, DELTA);
    assert_eq!(again.set.peers, stage.expected(&Viewer::Observer));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_token_moves_on_with_what_happened_elsewhere() {
    let mut stage = Stage::new();
    let (before, blue) = (stage.point, "blue".parse().unwrap());
    stage.upsert("a", 1);
    let changed = stage.point;
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    stage.publish_batch(Publication::default());
    let peers = vec![("blue".parse().unwrap(), upsert("a", 1))];
    let batch = |point, peers| Publication { point, peers, ..Publication::default() };
    let history = [batch(changed, peers), batch(stage.point, Vec::new())];
    stage.feeds.begin(before, &history, &stage.scene);
    assert_eq!(stage.feeds.last_change(&blue), Some(changed.revision));
    let mut again = stage.open(&Viewer::Observer, client.set);
    assert_eq!(again.read().await, HEARTBEAT);
    assert_eq!(stage.feeds.open_token(&blue, &again.set.token).unwrap().point, stage.point);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_ours_gets_a_snapshot() {
    let mut stage = Stage::new();
    stage.upsert("a", 1);
    for token in [&b"x"[..], &[0; 47], &[7; 1000]] {
        let set = Set { token: Bytes::copy_from_slice(token), ..Set::default() };
        assert_eq!(stage.open(&Viewer::Observer, set).read().await, SNAPSHOT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_from_before_history_gets_a_snapshot() {
    let history = HistoryLimits { bytes: 1 << 20, steps: 3 };
    let mut stage = Stage::with(FeedOptions { history, ..feed_options() });
    let mut sets = Vec::new();
    for n in 0..6 {
        stage.upsert("a", n);
        let mut client = stage.open(&Viewer::Observer, Set::default());
        client.read().await;
        sets.push(client.set);
    }
    let expected = [SNAPSHOT, SNAPSHOT, DELTA, DELTA, DELTA, HEARTBEAT];
    for (set, expected) in sets.into_iter().zip(expected) {
        let mut client = stage.open(&Viewer::Observer, set);
        assert_eq!(client.read().await, expected);
        assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_history_has_left_behind_gets_a_snapshot() {
    let history = HistoryLimits { bytes: 1 << 20, steps: 3 };
    let mut stage = Stage::with(FeedOptions { history, ..feed_options() });
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    for n in 0..10 {
        stage.upsert(&format!("node-{n}"), n);
    }
    assert_eq!(client.read().await, SNAPSHOT);
    assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_network_comes_with_its_delta() {
    let mut stage = Stage::new();
    let mut client = stage.open(&node("a"), Set::default());
    client.read().await;
    stage.scene.networks[0].0.revision = 9;
    let network = stage.scene.networks[0].0.clone();
    let networks = vec![(network.id.clone(), Some(network))];
    stage.publish_batch(Publication { networks, ..Publication::default() });
    assert_eq!(client.read().await, DELTA);
    assert_eq!(client.set.network, stage.network());
}

#[tokio::test(start_paused = true)]
async fn a_new_incarnation_and_the_end_of_its_adoption_are_snapshots_to_all() {
    let mut stage = Stage::new();
    stage.publish(vec![upsert("a", 1), upsert("b", 2)]);
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    let before = client.set.clone();

    let whole = stage.scene.networks[0].1.clone();
    stage.scene.incarnation = Incarnation { id: 2, predecessors: [1].into(), adopting: true };
    stage.scene.networks[0].1.truncate(1);
    stage.publish_batch(Publication { cluster: true, ..Publication::default() });
    assert_eq!(client.read().await, SNAPSHOT);
    assert!(client.set.adopting);
    assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
    pass(Duration::from_secs(3)).await;
    assert_eq!(client.read().await, HEARTBEAT);
    let during = client.set.clone();
    let mut again = stage.open(&Viewer::Observer, before);
    assert_eq!(again.read().await, SNAPSHOT, "a predecessor's token is no alarm");

    stage.scene.incarnation.adopting = false;
    stage.scene.networks[0].1 = whole;
    stage.publish_batch(Publication { cluster: true, ..Publication::default() });
    for client in [&mut client, &mut again] {
        assert_eq!(client.read().await, SNAPSHOT);
        assert!(!client.set.adopting);
        assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
    }
    let mut late = stage.open(&Viewer::Observer, during);
    assert_eq!(late.read().await, SNAPSHOT, "whoever was away must learn what to delete");
    assert_eq!(late.set.peers, stage.expected(&Viewer::Observer));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_ahead_or_of_an_unknown_store_begins_no_watch() {
    let mut ahead = Stage::new();
    ahead.upsert("a", 1);
    let mut client = ahead.open(&Viewer::Observer, Set::default());
    client.read().await;
    let behind = Stage::new();
    let token = client.set.token;
    assert!(matches!(behind.try_open(&Viewer::Observer, &token), Err(WatchRefusal::StoreLost(_))));

    let mut elsewhere = Stage::new();
    elsewhere.publish_batch(Publication::default());
    elsewhere.scene.incarnation.id = 9;
    elsewhere.publish_batch(Publication { cluster: true, ..Publication::default() });
    assert!(matches!(elsewhere.try_open(&Viewer::Observer, &token), Err(WatchRefusal::StoreLost(_))));
}

#[tokio::test(start_paused = true)]
async fn changes_while_a_fan_out_is_paid_for_come_together() {
    /// Every look costs 50 ms of CPU time.
    fn cpu_time() -> Duration {
        use std::sync::atomic::{AtomicU64, Ordering};
        static USED: AtomicU64 = AtomicU64::new(0);
        Duration::from_millis(USED.fetch_add(50, Ordering::Relaxed))
    }
    let mut stage = Stage::with(FeedOptions { cpu_time, ..feed_options() });
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    stage.upsert("a", 1);
    assert_eq!(client.read().await, DELTA, "nothing to wait for after quiet");
    for n in 0..50 {
        stage.upsert(&format!("node-{n}"), n);
        assert_eq!(client.read().await, NOTHING);
    }
    pass(Duration::from_millis(199)).await;
    assert_eq!(client.read().await, NOTHING);
    pass(Duration::from_millis(2)).await;
    assert_eq!(client.read().await, DELTA, "4 × 50 ms after the first");
    assert_eq!(client.set.peers, stage.expected(&Viewer::Observer));
}

/// What happens in a random run.
#[derive(Clone, Debug)]
enum Event {
    /// Several changes of one batch: node, and its content or its end.
    Batch(Vec<(u8, Option<u8>)>),
    /// A batch of other networks.
    Elsewhere,
    /// The network changes.
    Network,
    /// A watcher reads what there is.
    Read(u8),
    /// A watcher loses its connection and resumes.
    Resume(u8),
    /// Time passes, ms.
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let change = (0_u8..6, proptest::option::weighted(0.7, 0_u8..4));
    prop_oneof![
        5 => proptest::collection::vec(change, 1..4).prop_map(Event::Batch),
        1 => Just(Event::Elsewhere),
        1 => Just(Event::Network),
        3 => (0_u8..4).prop_map(Event::Read),
        2 => (0_u8..4).prop_map(Event::Resume),
        1 => (0_u16..4000).prop_map(Event::Pass),
    ]
}

fn batch(changes: &[(u8, Option<u8>)]) -> Vec<PeerChange> {
    // One batch changes a record once.
    let changes: BTreeMap<_, _> = changes.iter().copied().collect();
    let change = |(node, content): (u8, Option<u8>)| {
        let node = format!("node-{node}");
        content.map_or_else(|| removed(&node), |n| upsert(&node, n.into()))
    };
    changes.into_iter().map(change).collect()
}

/// Everything a client has been at, by what its token said then.
type Past = Vec<(Viewer, Set)>;

async fn run(events: Vec<Event>, steps: usize) {
    let history = HistoryLimits { bytes: 1 << 20, steps };
    let mut stage = Stage::with(FeedOptions { history, ..feed_options() });
    // None of the peers that come and go: a watch ends with its node's own lease.
    let viewers = [Viewer::Observer, node("elsewhere"), Viewer::Observer, node("zz")];
    let mut clients: Vec<_> = viewers.iter().map(|viewer| stage.open(viewer, Set::default())).collect();
    let mut past: Past = Vec::new();
    for event in events {
        match event {
            Event::Batch(changes) => stage.publish(batch(&changes)),
            Event::Elsewhere => stage.publish_batch(Publication::default()),
            Event::Network => {
                stage.scene.networks[0].0.revision += 1;
                let network = stage.scene.networks[0].0.clone();
                let networks = vec![(network.id.clone(), Some(network))];
                stage.publish_batch(Publication { networks, ..Publication::default() });
            }
            Event::Read(which) => {
                let which = usize::from(which);
                clients[which].read().await;
                stage.assert_true(&viewers[which], &clients[which].set);
                past.push((viewers[which].clone(), clients[which].set.clone()));
            }
            Event::Resume(which) => {
                let which = usize::from(which);
                clients[which] = stage.open(&viewers[which], clients[which].set.clone());
            }
            Event::Pass(ms) => pass(Duration::from_millis(ms.into())).await,
        }
    }
    // Watchers that do not read hold the bell up for a second.
    tokio::task::yield_now().await;
    pass(Duration::from_secs(1)).await;
    // Catching up from anywhere is the same as having watched.
    for (viewer, set) in past {
        let mut client = stage.open(&viewer, set);
        client.read().await;
        assert_eq!(client.set.peers, stage.expected(&viewer));
        assert_eq!(client.set.network, stage.network());
    }
    for (client, viewer) in clients.iter_mut().zip(&viewers) {
        client.read().await;
        assert_eq!(client.set.peers, stage.expected(viewer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn catching_up_is_the_same_as_watching(
        events in proptest::collection::vec(event(), 1..120),
        steps in prop_oneof![Just(4_usize), Just(1000)],
    ) {
        let builder = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        builder.unwrap().block_on(run(events, steps));
    }
}
