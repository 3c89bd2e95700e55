//! What the etcd store must do beyond the suite: be several processes', outlive etcd's absence, and say what is wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::suite::{self, Fixture, delete, followed, load, put, within};
use super::testing::{Etcd, shared};
use super::*;

struct Fresh;

impl Fixture for Fresh {
    type Store = EtcdStore;

    async fn store(&self, history_bytes: usize) -> EtcdStore {
        let options = EtcdOptions { history_bytes, ..shared() };
        EtcdStore::create(&options).await.unwrap();
        open(&options, "one").await
    }
}

suite::store_suite!(Fresh);

async fn open(options: &EtcdOptions, name: &str) -> EtcdStore {
    EtcdStore::open(options, name).await.unwrap()
}

async fn open_error(options: &EtcdOptions) -> String {
    let error = EtcdStore::open(options, "one").await.unwrap_err().to_string();
    error.replace(&options.address.to_string(), "STORE")
}

async fn made(options: &EtcdOptions) -> EtcdStore {
    EtcdStore::create(options).await.unwrap();
    open(options, "one").await
}

async fn reached(store: &EtcdStore, revision: u64) {
    let mut batches = std::pin::pin!(store.follow(load(store).await.revision));
    while load(store).await.revision < Revision(revision) {
        within(batches.next()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_commit_at_once_each_has_the_same_in_the_end() {
    let options = shared();
    let stores = [made(&options).await, open(&options, "two").await, open(&options, "three").await];
    let calls = stores.iter().enumerate().flat_map(|(own, store)| {
        (0..200).map(move |n| {
            let slot = format!("slot/{n}");
            let changes = vec![put(&slot, &own.to_string()), put(&format!("own/{own}/{n}"), "x")];
            store.commit(changes, vec![Guard::Absent(slot.as_str().into())])
        })
    });
    let outcomes = futures_util::future::join_all(calls.collect::<Vec<_>>()).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 200, "each slot has one holder");
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(CommitError::Conflict(_)))).count();
    assert_eq!(won + lost, 600);
    for store in &stores {
        reached(store, 200).await;
    }
    let all = followed(&stores[0], 0, 200).await;
    for store in &stores {
        assert_eq!(load(store).await, load(&stores[0]).await);
        assert_eq!(followed(store, 0, 200).await, all);
    }
    assert_eq!(load(&open(&options, "four").await).await, load(&stores[0]).await);
    assert_eq!(stores[2].newest().await, Ok(Revision(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_trimmed_the_others_let_go_of_as_well() {
    let options = EtcdOptions { history_bytes: 2000, ..shared() };
    let stores = [made(&options).await, open(&options, "two").await];
    for n in 1..=100 {
        stores[n % 2].commit(vec![put("a", &n.to_string()), delete("b")], vec![]).await.unwrap();
    }
    reached(&stores[0], 100).await;
    reached(&stores[1], 100).await;
    let loaded = load(&stores[0]).await;
    assert!((1..100).contains(&loaded.history.len()));
    assert_eq!(load(&stores[1]).await, loaded);
    assert_eq!(load(&open(&options, "three").await).await, loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_an_etcd_that_crashes_and_none_is_made_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(&directory);
    let options = etcd.options("/loden");
    let stores = [made(&options).await, open(&options, "two").await];
    let calls: Vec<_> = (0..400)
        .map(|n| stores[n % 2].commit(vec![put(&format!("k{n}"), "x")], vec![]))
        .map(tokio::spawn)
        .collect();
    reached(&stores[0], 50).await;
    etcd.crash_and_start(&directory);
    let mut revisions = Vec::new();
    for call in calls {
        revisions.push(within(call).await.unwrap().unwrap().0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=400).collect::<Vec<_>>());
    reached(&stores[0], 400).await;
    reached(&stores[1], 400).await;
    assert_eq!(load(&stores[0]).await, load(&stores[1]).await);
    assert_eq!(load(&open(&options, "three").await).await, load(&stores[0]).await);
}

/// What stands between a store and its etcd, and loses the next answer when it is told to, with the connection.
async fn lossy(options: &EtcdOptions) -> (EtcdOptions, Arc<AtomicBool>) {
    let server = options.address.members[0].clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().to_string();
    let loses = Arc::new(AtomicBool::new(false));
    let losing = Arc::clone(&loses);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, losing) = (TcpStream::connect(&server).await.unwrap(), Arc::clone(&losing));
            tokio::spawn(async move {
                let ((mut asked, mut answered), (mut said, mut ask)) =
                    (client.into_split(), server.into_split());
                let answers = async {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = said.read(&mut buffer).await {
                        if losing.swap(false, Ordering::Relaxed)
                            || answered.write_all(&buffer[..length]).await.is_err()
                        {
                            break;
                        }
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy(&mut asked, &mut ask) => {}
                    () = answers => {}
                }
            });
        }
    });
    let mut through = options.clone();
    through.address.members = vec![here];
    (through, loses)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_done_once_and_is_no_conflict_with_itself() {
    let (options, loses) = lossy(&shared()).await;
    let store = made(&options).await;
    for n in 1..=10 {
        loses.store(true, Ordering::Relaxed);
        let claim = format!("slot/{n}");
        let commit = store.commit(vec![put(&claim, "x")], vec![Guard::Absent(claim.as_str().into())]);
        assert_eq!(within(commit).await, Ok(Revision(n)));
    }
    assert_eq!(load(&store).await.records.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_hangs_is_away_until_it_answers() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&directory);
    let store = made(&etcd.options("/loden")).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let mut health = store.health();
    etcd.signal(Signal::SIGSTOP);
    within(health.wait_for(|health| matches!(health, Health::Away { .. }))).await.unwrap();
    assert!(matches!(store.commit(vec![put("a", "2")], vec![]).await, Err(CommitError::Away(_))));
    assert_eq!(load(&store).await.records.len(), 1);
    assert!(store.newest().await.is_err());
    etcd.signal(Signal::SIGCONT);
    within(health.wait_for(|health| *health == Health::Healthy)).await.unwrap();
    assert_eq!(store.commit(vec![put("a", "2")], vec![]).await, Ok(Revision(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_restored_from_a_copy_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(&directory);
    let options = etcd.options("/loden");
    let store = made(&options).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let snapshot = directory.path().join("snapshot");
    etcd.control(&["snapshot", "save", snapshot.to_str().unwrap()]);
    store.commit(vec![put("a", "2")], vec![]).await.unwrap();
    etcd.signal(Signal::SIGKILL);
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    restore(&directory);
    etcd.crash_and_start(&directory);
    let mut health = store.health();
    let recoverable = |health: &Health| matches!(health, Health::Recoverable { .. });
    let cause = format!("{:?}", *within(health.wait_for(recoverable)).await.unwrap());
    assert!(cause.contains("restored from a copy"), "{cause}");
    drop(store);
    let again = open(&options, "one").await;
    assert_eq!(load(&again).await.revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_somebody_deletes_is_missed_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&directory);
    for (prefix, deleted, missed) in [
        ("/all", &["--prefix", "/all/"][..], "/all/head"),
        ("/head", &["/head/head"][..], "/head/head"),
        ("/mark", &["/mark/format"][..], "/mark/format"),
    ] {
        let store = made(&etcd.options(prefix)).await;
        store.commit(vec![put("a", "1")], vec![]).await.unwrap();
        let mut health = store.health();
        etcd.control(&[&["del"][..], deleted].concat());
        let poisoned = |health: &Health| matches!(health, Health::Poisoned { .. });
        let cause = format!("{:?}", *within(health.wait_for(poisoned)).await.unwrap());
        assert!(cause.contains(&format!("{missed} was deleted from etcd")), "{cause}");
        assert_eq!(load(&store).await.records.len(), 1, "what is known is read");
    }
}

fn restore(directory: &TempDir) {
    let output = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .current_dir(directory.path())
        .args(["snapshot", "restore", "snapshot", "--data-dir", "data"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hears_what_the_others_tell_until_they_are_gone() {
    let options = shared();
    let stores = [made(&options).await, open(&options, "two").await];
    let mut others = stores[0].others();
    stores[1].announce(Bytes::from_static(b"first"));
    let told =
        |text: &'static [u8]| move |others: &Others| others.get("two").is_some_and(|note| note == text);
    within(others.wait_for(told(b"first"))).await.unwrap();
    stores[1].announce(Bytes::from_static(b"second"));
    within(others.wait_for(told(b"second"))).await.unwrap();
    assert_eq!(others.borrow().len(), 1);
    let [_one, two] = stores;
    two.close().await;
    within(others.wait_for(|others| others.is_empty())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_without_a_store_is_no_empty_store() {
    let options = shared();
    let error = open_error(&options).await;
    let expected = format!("store STORE: there is no store in this etcd below {}: ", options.address.prefix);
    assert!(error.starts_with(&expected), "{error}");
    EtcdStore::create(&options).await.unwrap();
    let again = EtcdStore::create(&options).await.unwrap_err().to_string();
    assert!(again.ends_with("there is one already"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_newer_or_damaged_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&directory);
    etcd.control(&["put", "/theirs/a", "b"]);
    let theirs = etcd.options("/theirs");
    let foreign = "store STORE: there are keys without our format mark, so it is not a store of this program";
    assert_eq!(open_error(&theirs).await, foreign);
    assert!(EtcdStore::create(&theirs).await.is_err());

    let options = etcd.options("/loden");
    let store = made(&options).await;
    store.commit(vec![put("leases/blue/10.1.4.0", "node-7")], vec![]).await.unwrap();
    store.commit(vec![put("b", "1")], vec![]).await.unwrap();
    drop(store);
    let all = etcd.control(&["get", "--prefix", "/"]);
    etcd.control(&["put", "/loden/format", "2"]);
    assert_eq!(
        open_error(&options).await,
        "store STORE has format \"2\", this version reads format \"1\" only"
    );
    etcd.control(&["put", "/loden/format", "1"]);
    etcd.control(&["put", "/loden/records/leases/blue/10.1.4.0", "damaged"]);
    let corrupt = "/loden/records/leases/blue/10.1.4.0 in store STORE is corrupt";
    assert_eq!(open_error(&options).await, corrupt);
    etcd.control(&["del", "/loden/records/leases/blue/10.1.4.0"]);
    let missing = "store STORE contradicts itself: its records are not those of revision 2";
    assert_eq!(open_error(&options).await, missing);
    etcd.control(&["del", "/loden/head"]);
    assert_eq!(open_error(&options).await, "/loden/head in store STORE is corrupt");
    assert!(all.contains("/theirs/a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_the_same_store_and_half_of_one_is_none() {
    let memory = super::super::MemoryStore::new();
    for n in 0..300 {
        let value = "x".repeat(n * 10);
        memory
            .commit(vec![put(&format!("k{}", n % 40), &value), put("n", &n.to_string())], vec![])
            .await
            .unwrap();
    }
    let loaded = load(&memory).await;
    let options = shared();
    EtcdStore::create_copy(&options, &loaded).await.unwrap();
    assert!(EtcdStore::create_copy(&options, &loaded).await.is_err());
    let store = open(&options, "one").await;
    assert_eq!(load(&store).await, loaded);
    assert_eq!(store.commit(vec![put("a", "1")], vec![]).await, Ok(Revision(301)));
    let (read, users) = EtcdStore::read(&options).await.unwrap();
    assert_eq!((read.revision, users), (Revision(301), vec!["one".to_owned()]));

    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&directory);
    let half = etcd.options("/half");
    etcd.control(&["put", "/half/format", make::HALF]);
    etcd.control(&["put", "/half/records/left", "over"]);
    assert_eq!(
        open_error(&half).await,
        "store STORE is half a copy: run the command again that was to copy to it"
    );
    EtcdStore::create_copy(&half, &loaded).await.unwrap();
    assert_eq!(load(&open(&half, "one").await).await, loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_and_password_are_asked_for_and_a_wrong_one_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&directory);
    etcd.control(&["user", "add", "root:secret"]);
    etcd.control(&["auth", "enable"]);
    let options = etcd.options("/loden");
    let with =
        |password: &str| EtcdOptions { user: Some(("root".into(), password.into())), ..options.clone() };
    let nobody = open_error(&options).await;
    assert!(nobody.starts_with("store STORE: ") && nobody.contains("user name"), "{nobody}");
    let wrong = open_error(&with("guess")).await;
    assert_eq!(wrong, "store STORE: etcdserver: authentication failed, invalid user ID or password");
    let store = made(&with("secret")).await;
    assert_eq!(store.commit(vec![put("a", "1")], vec![]).await, Ok(Revision(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_nobody_serves_is_named_with_the_reason() {
    let address = "etcd://127.0.0.1:1/loden".parse().unwrap();
    let error = open_error(&EtcdOptions::new(address)).await;
    assert_eq!(error, "store STORE: Connection refused (os error 111)");
    let slow = timeout(Duration::from_secs(15), async {
        open_error(&EtcdOptions::new("etcd://192.0.2.1:2379/loden".parse().unwrap())).await
    });
    assert!(slow.await.unwrap().starts_with("store STORE: "));
}
