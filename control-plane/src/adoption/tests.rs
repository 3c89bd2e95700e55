mod newborn;

use std::path::Path;

use bytes::Bytes;
use futures_util::future::join_all;
use loden_proto::model::Subnets;

use super::*;
use crate::clerk::testing::{Bench, feed_options, name};
use crate::feed::{Point, Token, TokenKey};
use crate::ledger::{Defaults, Refusal};
use crate::store::{MemoryStore, Store};
use crate::watch::Viewer;
use crate::watch::tests::client::{Client, Set, node};

const ADOPT: Duration = Duration::from_secs(600);
const SETTLE: Duration = Duration::from_secs(15);

async fn start(bench: &Bench, dir: &Path) -> Adoption {
    start_among(bench, dir, crate::replicas::alone()).await
}

async fn start_among(bench: &Bench, dir: &Path, others: Others) -> Adoption {
    start_with(bench, dir, others, false).await
}

async fn start_with(bench: &Bench, dir: &Path, others: Others, key_came_with_store: bool) -> Adoption {
    let Bench { clerk, feeds, streams, settling, knocks, time, .. } = bench;
    let options = AdoptionOptions {
        others,
        adopt: ADOPT,
        settle: SETTLE,
        marker: dir.join("incarnation"),
        key_came_with_store,
        knocks: knocks.clone(),
    };
    Adoption::start(clerk.clone(), feeds.clone(), streams.clone(), settling, options, time.clock())
        .await
        .unwrap()
}

async fn open(adoption: &Adoption, viewer: Viewer, set: Set) -> Client {
    let open = WatchOpen { network: "blue".parse().unwrap(), token: set.token.clone(), viewer };
    Client::new(adoption.watch(open).await.unwrap(), set)
}

/// A client that has read everything there is.
async fn followed(adoption: &Adoption) -> Set {
    let mut client = open(adoption, Viewer::Observer, Set::default()).await;
    client.read().await;
    client.set
}

/// A store that has made the same commits up to a revision, as a directory that was copied back has.
async fn copied(store: &MemoryStore, upto: u64) -> Arc<MemoryStore> {
    let copy = Arc::new(MemoryStore::new());
    for batch in store.load().await.unwrap().history.into_iter().take_while(|batch| batch.revision.0 <= upto)
    {
        let revision = copy.commit(batch.changes.to_vec(), vec![]).await.unwrap();
        assert_eq!(revision, batch.revision);
    }
    copy
}

fn incarnation(bench: &Bench) -> Cluster {
    bench.clerk.read(|ledger| ledger.cluster()).unwrap()
}

/// A clerk whose store holds the network `blue` and the leases of `a` and `b`.
async fn served(store: &Arc<MemoryStore>, dir: &Path) -> (Bench, Adoption, [Subnets; 2]) {
    let bench = Bench::start(store).await;
    let adoption = start(&bench, dir).await;
    bench.create("blue").await;
    let (a, b) = (bench.acquire("a", 1).await, bench.acquire("b", 2).await);
    (bench, adoption, [a.subnets, b.subnets])
}

#[test]
fn a_store_is_compared_with_what_was_served_last() {
    let cluster = Cluster { incarnation: 3, predecessors: vec![1, 2], adopt_until: None };
    assert_eq!(opened(None, false, None), Opened::First);
    assert_eq!(opened(Some(&cluster), false, None), Opened::Known);
    assert_eq!(opened(Some(&cluster), true, None), Opened::Lost { predecessor: 3 }, "so were marker and key");
    assert_eq!(opened(Some(&cluster), true, Some(3)), Opened::Known);
    assert_eq!(opened(Some(&cluster), true, Some(2)), Opened::Known, "stopped before the marker was written");
    assert_eq!(opened(Some(&cluster), true, Some(9)), Opened::Lost { predecessor: 9 });
    assert_eq!(opened(None, false, Some(9)), Opened::Lost { predecessor: 9 });
}

#[test]
fn only_a_lost_store_adopts() {
    let now = SystemTime::UNIX_EPOCH;
    assert_eq!(beginning(Opened::Known, 5, now, ADOPT), None);
    let first = Command::BeginIncarnation { id: 5, predecessor: None, adopt_until: None };
    assert_eq!(beginning(Opened::First, 5, now, ADOPT), Some(first));
    let again = Command::BeginIncarnation { id: 5, predecessor: Some(9), adopt_until: Some(now + ADOPT) };
    assert_eq!(beginning(Opened::Lost { predecessor: 9 }, 5, now, ADOPT), Some(again));
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_recovers_has_the_next_start_adopt() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("incarnation");
    recover(&marker).unwrap();
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    drop(start(&bench, dir.path()).await);
    let first = incarnation(&bench);
    assert!(first.adopt_until.is_some());
    drop(bench);

    let bench = Bench::start(&store).await;
    drop(start(&bench, dir.path()).await);
    assert_eq!(incarnation(&bench), first, "a restart goes on with it");
    recover(&marker).unwrap();
    drop(start(&bench, dir.path()).await);
    assert_ne!(incarnation(&bench).incarnation, first.incarnation);
}

/// A control plane on the store, in whose directory it is noted that the key of tokens is new.
async fn unproven(store: &Arc<MemoryStore>, dir: &Path) -> Bench {
    let note = dir.join("unproven");
    std::fs::write(&note, "").unwrap();
    Bench::start_listening(store, Defaults::default(), feed_options(), Knocks::noted(note)).await
}

/// A control plane more, whose state directory is new: the key of tokens came with the store.
#[tokio::test(start_paused = true)]
async fn one_that_is_new_on_a_store_believes_it_unless_the_key_of_tokens_is_new_as_well() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, ..) = served(&store, dir.path()).await;
    let first = incarnation(&bench);
    let new = tempfile::tempdir().unwrap();
    drop(start(&bench, new.path()).await);
    assert_eq!(incarnation(&bench), first, "nobody adopts");
    let marker = Marker::new(&new.path().join("incarnation")).read().unwrap();
    assert_eq!(marker, Some(first.incarnation));
    drop(bench);

    let new = tempfile::tempdir().unwrap();
    let bench = unproven(&store, new.path()).await;
    drop(start(&bench, new.path()).await);
    let second = incarnation(&bench);
    assert!(second.adopt_until.is_some() && second.predecessors.contains(&first.incarnation));
}

/// The note that the key is new has come with the key, and tells as little of the store.
#[tokio::test(start_paused = true)]
async fn one_that_has_taken_the_key_of_a_young_cluster_from_the_store_believes_it() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, ..) = served(&store, dir.path()).await;
    let first = incarnation(&bench);
    drop(bench);

    let new = tempfile::tempdir().unwrap();
    let bench = unproven(&store, new.path()).await;
    drop(start_with(&bench, new.path(), crate::replicas::alone(), true).await);
    assert_eq!(incarnation(&bench), first, "nobody adopts");
    drop(start(&bench, new.path()).await);
    assert_eq!(incarnation(&bench), first, "nor at the next start, which finds the marker");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_known_is_served_though_nothing_can_be_written() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    drop(served(&store, dir.path()).await);
    // Where the marker would be written first.
    std::fs::create_dir(dir.path().join("incarnation.new")).unwrap();
    let bench = Bench::start(&store).await;
    start(&bench, dir.path()).await;
    assert!(Marker::new(&dir.path().join("incarnation")).write(9).is_err());
}

#[tokio::test(start_paused = true)]
async fn tokens_survive_a_restart() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, adoption, _) = served(&store, dir.path()).await;
    let (set, first) = (followed(&adoption).await, incarnation(&bench));
    bench.acquire("c", 3).await;
    bench.release("b").await;
    drop((bench, adoption));

    let bench = Bench::start(&store).await;
    let adoption = start(&bench, dir.path()).await;
    assert_eq!(incarnation(&bench), first);
    let mut client = open(&adoption, Viewer::Observer, set).await;
    client.lenient = true;
    let brought = client.read().await;
    assert_eq!((brought.snapshots, brought.deltas), (0, 1));
    assert_eq!(client.set.peers.keys().collect::<Vec<_>>(), ["a", "c"]);
    let current = client.set.clone();
    let mut again = open(&adoption, Viewer::Observer, current).await;
    assert_eq!(again.read().await.heartbeats, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_store_collects_what_the_agents_hold_and_then_is_whole() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, adoption, [a, b]) = served(&store, dir.path()).await;
    let (set, first) = (followed(&adoption).await, incarnation(&bench));
    drop((bench, adoption, store));

    let bench = Bench::start(&Arc::new(MemoryStore::new())).await;
    let adoption = start(&bench, dir.path()).await;
    let second = incarnation(&bench);
    assert_ne!(second.incarnation, first.incarnation);
    assert!(second.predecessors.contains(&first.incarnation) && second.adopt_until.is_some());
    bench.create("blue").await;
    let refused = bench.try_acquire("new", 9, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Adopting { .. }))), "{refused:?}");
    assert_eq!(bench.try_acquire("b", 2, Some(b)).await.unwrap().subnets, b);
    let mut client = open(&adoption, Viewer::Observer, set).await;
    assert_eq!(client.read().await.snapshots, 1);
    assert!(client.set.adopting);
    assert_eq!(client.set.peers.keys().collect::<Vec<_>>(), ["b"]);

    let running = tokio::spawn(adoption.run(bench.settling.clone()));
    bench.time.pass(ADOPT - Duration::from_secs(1));
    tokio::time::sleep(LOOK * 5).await;
    client.read().await;
    assert!(client.set.adopting, "not before its time");
    assert_eq!(bench.try_acquire("a", 1, Some(a)).await.unwrap().subnets, a);
    bench.time.pass(Duration::from_secs(2));
    tokio::time::sleep(LOOK * 5).await;
    client.read().await;
    assert!(!client.set.adopting);
    assert_eq!(client.set.peers.keys().collect::<Vec<_>>(), ["a", "b"]);
    tokio::time::sleep(LOOK * 6).await;
    let fresh = bench.acquire("new", 9).await.subnets;
    assert!(fresh != a && fresh != b);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_store_is_noticed_by_the_first_token_and_wipes_nobody() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, adoption, [a, _]) = served(&store, dir.path()).await;
    let back_to = bench.clerk.revision().0 - 1;
    let (set, first) = (followed(&adoption).await, incarnation(&bench));
    drop((bench, adoption));

    let bench = Bench::start(&copied(&store, back_to).await).await;
    let adoption = start(&bench, dir.path()).await;
    assert_eq!(incarnation(&bench), first, "nothing to see without a token");
    let mut clients = join_all((0..20).map(|n| open(&adoption, node(&format!("n{n}")), set.clone()))).await;
    let second = incarnation(&bench);
    assert_eq!(second.predecessors, [first.incarnation], "begun once");
    assert!(second.adopt_until.is_some());
    for client in &mut clients {
        assert_eq!(client.read().await.snapshots, 1);
        assert!(client.set.adopting && client.set.peers.is_empty(), "nobody is confirmed yet");
    }
    assert_eq!(bench.try_acquire("a", 1, Some(a)).await.unwrap().subnets, a);
    for client in &mut clients {
        assert_eq!(client.read().await.deltas, 1);
        assert_eq!(client.set.peers.keys().collect::<Vec<_>>(), ["a"]);
    }
    let marker = Marker::new(&dir.path().join("incarnation")).read().unwrap();
    assert_eq!(marker, Some(second.incarnation));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_another_way_is_noticed_too() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, adoption, _) = served(&store, dir.path()).await;
    let set = followed(&adoption).await;
    let back_to = bench.clerk.revision().0 - 1;
    let first = incarnation(&bench);
    drop((bench, adoption));

    let bench = Bench::start(&copied(&store, back_to).await).await;
    let adoption = start(&bench, dir.path()).await;
    bench.settling.end();
    bench.acquire("x", 7).await;
    bench.acquire("y", 8).await;
    let mut client = open(&adoption, Viewer::Observer, set).await;
    client.read().await;
    assert!(client.set.adopting);
    assert_eq!(incarnation(&bench).predecessors, [first.incarnation]);
}

#[tokio::test(start_paused = true)]
async fn no_watch_begins_on_a_lost_store_that_takes_no_writes() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (bench, adoption, _) = served(&store, dir.path()).await;
    let back_to = bench.clerk.revision().0 - 1;
    let token: Bytes = followed(&adoption).await.token;
    drop((bench, adoption));

    let copy = copied(&store, back_to).await;
    let bench = Bench::start(&copy).await;
    let adoption = start(&bench, dir.path()).await;
    copy.poison("full");
    let open = WatchOpen { network: "blue".parse().unwrap(), token, viewer: Viewer::Observer };
    let refused = adoption.watch(open).await.unwrap_err();
    assert!(matches!(refused, OpenError::Adoption(AdoptionError::Submit(SubmitError::Store(_)))));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_nobody_new_gets_a_slot_until_everybody_is_back() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    drop(served(&store, dir.path()).await);

    let bench = Bench::start(&store).await;
    let adoption = start(&bench, dir.path()).await;
    let running = tokio::spawn(adoption.clone().run(bench.settling.clone()));
    let refused = bench.try_acquire("new", 9, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Settling { .. }))), "{refused:?}");
    assert!(bench.try_acquire("a", 1, None).await.is_ok(), "not new");
    let _a = open(&adoption, node("a"), Set::default()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.try_acquire("new", 9, None).await.is_err());
    let _b = open(&adoption, node("b"), Set::default()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(bench.try_acquire("new", 9, None).await.is_ok());
    assert!(bench.streams.contains(&name("a")));
    running.abort();
}

/// A copy from before anybody joined: nobody whom it knows is awaited.
#[tokio::test(start_paused = true)]
async fn after_a_restart_those_we_may_not_know_have_the_time_to_come_back_first() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let bench = Bench::start(&store).await;
    drop(start(&bench, dir.path()).await);
    bench.create("blue").await;
    drop(bench);

    let bench = Bench::start(&store).await;
    let adoption = start(&bench, dir.path()).await;
    let running = tokio::spawn(adoption.run(bench.settling.clone()));
    tokio::time::sleep(RETURN - Duration::from_millis(1)).await;
    assert!(bench.try_acquire("new", 9, None).await.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bench.try_acquire("new", 9, None).await.is_ok());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn settling_ends_by_itself_if_somebody_never_comes_back() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    drop(served(&store, dir.path()).await);
    let bench = Bench::start(&store).await;
    let adoption = start(&bench, dir.path()).await;
    let running = tokio::spawn(adoption.run(bench.settling.clone()));
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(bench.try_acquire("new", 9, None).await.is_ok());
    running.abort();
}
