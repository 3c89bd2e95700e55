use super::client::{Set, Stage, node};
use crate::watch::Viewer;

const WATCHERS: usize = 500;

#[tokio::test(start_paused = true)]
async fn a_change_is_encoded_once_for_all_watchers() {
    let mut stage = Stage::new();
    let viewer = |n: usize| if n == 0 { Viewer::Observer } else { node(&format!("watcher-{n}")) };
    let mut clients: Vec<_> = (0..WATCHERS).map(|n| stage.open(&viewer(n), Set::default())).collect();
    for client in &mut clients {
        client.read().await;
    }
    let counters = stage.feeds.counters().clone();
    assert_eq!(counters.snapshot_encodings.get(), 1);
    let (entries, deltas) = (counters.entry_encodings.get(), counters.delta_encodings.get());
    stage.upsert("a", 1);
    for client in &mut clients {
        assert_eq!(client.read().await.deltas, 1);
    }
    assert_eq!(counters.entry_encodings.get(), entries + 1);
    assert_eq!(counters.delta_encodings.get(), deltas + 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_reconnects_costs_one_encoding() {
    let mut stage = Stage::new();
    for n in 0..50 {
        stage.upsert(&format!("node-{n:02}"), n);
    }
    let mut client = stage.open(&Viewer::Observer, Set::default());
    client.read().await;
    stage.upsert("late", 1);
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    let counters = stage.feeds.counters().clone();
    let (entries, snapshots) = (counters.entry_encodings.get(), counters.snapshot_encodings.get());
    let deltas = counters.delta_encodings.get();
    let away: Vec<_> = (0..WATCHERS).map(|_| stage.open(&Viewer::Observer, client.set.clone())).collect();
    let new: Vec<_> =
        (0..WATCHERS).map(|n| stage.open(&node(&format!("node-{:02}", n % 50)), Set::default())).collect();
    assert_eq!(counters.entry_encodings.get(), entries);
    assert_eq!(counters.snapshot_encodings.get(), snapshots + 1);
    assert_eq!(counters.delta_encodings.get(), deltas + 1);
    for mut client in away.into_iter().chain(new) {
        client.read().await;
        assert!(client.set.peers.len() >= 50);
    }
}
