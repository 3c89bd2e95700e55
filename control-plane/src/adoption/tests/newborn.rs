//! The first life with a new CA: everything may have been lost, the CA too.

use std::path::PathBuf;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::replicas::{HeardKnock, Note, Replica};

fn claimed(subnet: &str) -> Subnets {
    loden_proto::convert::parse_subnets(&[subnet.to_owned()], "claim").unwrap()
}

/// The first life with a new CA, with the network `blue` and its housekeeping running.
struct Newborn {
    bench: Bench,
    adoption: Adoption,
    note: PathBuf,
    knocks: Knocks,
    running: JoinHandle<()>,
}

impl Newborn {
    async fn start(store: &Arc<MemoryStore>, dir: &Path) -> Self {
        Self::start_among(store, dir, crate::replicas::alone()).await
    }

    async fn start_among(store: &Arc<MemoryStore>, dir: &Path, others: Others) -> Self {
        let note = dir.join("unproven");
        std::fs::write(&note, "").unwrap();
        let knocks = Knocks::noted(note.clone()).among(others.clone());
        let bench = Bench::start_listening(store, Defaults::default(), feed_options(), knocks.clone()).await;
        let adoption = start_among(&bench, dir, others).await;
        let running = tokio::spawn(adoption.clone().run(bench.settling.clone()));
        bench.create("blue").await;
        Self { bench, adoption, note, knocks, running }
    }
}

/// A client that has followed the network `blue` of somebody with another key.
fn of_another_key() -> Set {
    let token = Token { incarnation: 77, point: Point { revision: 900, hash: 1 } };
    let token = TokenKey::new(b"lost").seal(&"blue".parse().unwrap(), token);
    Set { token, ..Set::default() }
}

/// Everything was lost, the CA too, and agents that run have knocked.
#[tokio::test(start_paused = true)]
async fn after_knocks_a_claim_begins_adoption_and_the_first_lease_ends_what_they_tell() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let Newborn { bench, adoption, note, knocks, running } = Newborn::start(&store, dir.path()).await;
    knocks.knock("192.0.2.7:4711".parse().unwrap(), Instant::now());
    let held = claimed("10.7.7.0/24");
    for claim in [None, Some(held)] {
        let refused = bench.try_acquire("a", 1, claim).await;
        assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Knocked(_)))), "{refused:?}");
    }

    adoption.heed_claim(&name("a")).await.unwrap();
    let adopting = incarnation(&bench);
    assert!(adopting.adopt_until.is_some());
    adoption.heed_claim(&name("b")).await.unwrap();
    assert_eq!(incarnation(&bench), adopting, "begun once");
    let refused = bench.try_acquire("new", 9, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Adopting { .. }))), "{refused:?}");
    assert!(note.exists());
    assert_eq!(bench.try_acquire("a", 1, Some(held)).await.unwrap().subnets, held);
    tokio::time::sleep(LOOK).await;
    assert!(!note.exists() && !knocks.is_counting());
    bench.time.pass(ADOPT);
    tokio::time::sleep(SETTLE).await;
    assert_ne!(bench.acquire("new", 9).await.subnets, held);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_really_new_only_settles_and_knocks_do_not_count_after_its_first_lease() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let Newborn { bench, note, knocks, running, .. } = Newborn::start(&store, dir.path()).await;
    let refused = bench.try_acquire("a", 1, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Settling { .. }))), "{refused:?}");
    tokio::time::sleep(RETURN + LOOK).await;
    bench.acquire("a", 1).await;
    tokio::time::sleep(LOOK).await;
    knocks.knock("192.0.2.7:4711".parse().unwrap(), Instant::now());
    assert!(!note.exists() && knocks.heard(Instant::now()).is_none());
    bench.acquire("b", 2).await;
    running.abort();
}

/// The first old node is issued anew before the others have knocked.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_before_the_first_knock_does_not_end_what_the_others_tell() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let Newborn { bench, adoption, note, knocks, running } = Newborn::start(&store, dir.path()).await;
    bench.try_acquire("a", 1, Some(claimed("10.7.7.0/24"))).await.unwrap();
    tokio::time::sleep(LOOK).await;
    knocks.knock("192.0.2.7:4711".parse().unwrap(), Instant::now());
    tokio::time::sleep(RETURN).await;
    assert!(note.exists());
    for (node, claim) in [("new", None), ("b", Some(claimed("10.7.8.0/24")))] {
        let refused = bench.try_acquire(node, 2, claim).await;
        assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Knocked(_)))), "{refused:?}");
    }
    adoption.heed_claim(&name("b")).await.unwrap();
    bench.try_acquire("b", 2, Some(claimed("10.7.8.0/24"))).await.unwrap();
    bench.try_acquire("a", 1, Some(claimed("10.7.7.0/24"))).await.unwrap();
    tokio::time::sleep(2 * LOOK).await;
    assert!(!note.exists());
    running.abort();
}

/// Store, key and marker were lost: nothing tells of it but a token of the lost key.
#[tokio::test(start_paused = true)]
async fn a_token_of_a_lost_key_begins_adoption_once() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let Newborn { bench, adoption, running, .. } = Newborn::start(&store, dir.path()).await;
    assert_eq!(incarnation(&bench).adopt_until, None);
    let set = of_another_key();

    drop(open(&adoption, Viewer::Observer, set.clone()).await);
    let adopting = incarnation(&bench);
    assert!(adopting.predecessors.contains(&77) && adopting.adopt_until.is_some());
    assert!(bench.try_acquire("new", 9, None).await.is_err());
    drop(open(&adoption, Viewer::Observer, set.clone()).await);
    assert_eq!(incarnation(&bench), adopting, "it is believed once");

    bench.time.pass(ADOPT);
    bench.clerk.submit(Command::EndAdoption).await.unwrap();
    drop(open(&adoption, Viewer::Observer, set).await);
    assert_eq!(incarnation(&bench).adopt_until, None, "also when adoption is over");
    running.abort();
}

/// Whoever is known here can send anything as its token.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_made_up_begins_no_adoption_once_the_key_has_proved_itself() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let Newborn { bench, adoption, note, running, .. } = Newborn::start(&store, dir.path()).await;
    tokio::time::sleep(RETURN + LOOK).await;
    bench.acquire("a", 1).await;
    tokio::time::sleep(2 * LOOK).await;
    assert!(!note.exists());
    let mut client = open(&adoption, Viewer::Observer, of_another_key()).await;
    client.read().await;
    assert_eq!(incarnation(&bench).adopt_until, None);
    assert_eq!(client.set.peers.len(), 1, "it gets a snapshot");
    bench.acquire("b", 2).await;
    running.abort();
}

/// Another control plane that serves.
fn another(note: Note) -> Arc<[Replica]> {
    Arc::from([Replica { name: "another".to_owned(), note: Note { serves: true, ..note } }])
}

/// Its agents have not had the time to come: others that have settled long ago say nothing of them.
#[tokio::test(start_paused = true)]
async fn one_that_cannot_prove_itself_settles_whatever_others_have_done() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (_tell, others) = watch::channel(another(Note { settled: true, ..Note::default() }));
    let Newborn { bench, running, .. } = Newborn::start_among(&store, dir.path(), others).await;
    tokio::time::sleep(RETURN - LOOK).await;
    let refused = bench.try_acquire("a", 1, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Settling { .. }))), "{refused:?}");
    tokio::time::sleep(2 * LOOK).await;
    bench.acquire("a", 1).await;
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn what_another_control_plane_has_heard_holds_new_subnets_here_too() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let (tell, others) = watch::channel(another(Note { settled: true, ..Note::default() }));
    let Newborn { bench, note, running, .. } = Newborn::start_among(&store, dir.path(), others).await;
    let knocked = HeardKnock { last: "192.0.2.7:4711".parse().unwrap(), seconds_ago: 1, hosts: 2 };
    tell.send_replace(another(Note { settled: true, knocked: Some(knocked), ..Note::default() }));
    tokio::time::sleep(SETTLE + LOOK).await;
    let refused = bench.try_acquire("new", 9, None).await;
    assert!(matches!(refused, Err(SubmitError::Refused(Refusal::Knocked(_)))), "{refused:?}");
    assert!(note.exists());

    // Nobody comes to it any more; but one more control plane has just begun to listen.
    tell.send_replace(another(Note::default()));
    bench.acquire("a", 1).await;
    tokio::time::sleep(2 * LOOK).await;
    assert!(note.exists());
    tell.send_replace(another(Note { settled: true, ..Note::default() }));
    tokio::time::sleep(2 * LOOK).await;
    assert!(!note.exists());
    running.abort();
}
