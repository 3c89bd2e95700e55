//! The sled store on a disk that is full: nothing answered is lost, the reason is named, and it starts.
//!
//! Each step runs in a process of its own, as it does in production: a store that met an error is left
//! alone until its process ends.

#![cfg(test)]

use std::{
    env,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use loden_control_plane::store::{
    Cause, Change, CommitError, Health, OpenError, Options, Revision, SledStore, Store,
};
use loden_tests::disk::Disk;

/// Where a step finds its disk, and which step it is.
const DISK: &str = "LODEN_FULL_DISK";
const STEP: &str = "LODEN_FULL_DISK_STEP";
const DISK_BYTES: u64 = 48 << 20;
const NO_SPACE: &str = "No space left on device";

#[tokio::test]
async fn a_full_disk_stops_writes_with_its_reason_and_loses_nothing() {
    if let Some((disk, step)) = step() {
        return match step.as_str() {
            "fill" => writes_stop_reads_go_on_and_recovery_is_noticed(&disk).await,
            "after" => everything_is_there_and_writes_resume(&disk).await,
            other => panic!("no step {other}"),
        };
    }
    let disk = disk();
    let test = "a_full_disk_stops_writes_with_its_reason_and_loses_nothing";
    run(test, "fill", &disk);
    run(test, "after", &disk);
}

#[tokio::test]
async fn a_store_starts_on_a_full_disk_again_and_again() {
    if let Some((disk, step)) = step() {
        return match step.as_str() {
            "fill" => writes_stop(&disk).await,
            "start" => everything_is_there_on_the_full_disk(&disk).await,
            "after" => everything_is_there_and_writes_resume(&disk).await,
            other => panic!("no step {other}"),
        };
    }
    let disk = disk();
    let test = "a_store_starts_on_a_full_disk_again_and_again";
    run(test, "fill", &disk);
    for _ in 0..10 {
        run(test, "start", &disk);
    }
    fs::remove_file(filler(&disk.path())).unwrap();
    run(test, "after", &disk);
}

#[tokio::test]
async fn a_new_store_on_a_full_disk_says_so_and_starts_once_there_is_space() {
    if let Some((disk, step)) = step() {
        return match step.as_str() {
            "refused" => a_new_store_is_refused(&disk).await,
            "cramped" => a_new_store_is_refused_or_poisoned(&disk).await,
            "after" => everything_is_there_and_writes_resume(&disk).await,
            other => panic!("no step {other}"),
        };
    }
    let test = "a_new_store_on_a_full_disk_says_so_and_starts_once_there_is_space";
    // Full at every stage: nothing fits, part of a store fits, all but its ballast, a few commits.
    for spare in [0, 8, 16, 32, 64, 300, 600, 1100] {
        let disk = disk();
        fill(&disk.path(), spare << 10);
        run(test, if spare == 0 { "refused" } else { "cramped" }, &disk);
        fs::remove_file(filler(&disk.path())).unwrap();
        run(test, "after", &disk);
    }
}

async fn writes_stop(disk: &Path) {
    let store = open(disk).await;
    let (_, cause) = commit_until_full(&store, disk).await;
    assert_eq!(cause.to_string(), NO_SPACE);
    fill(disk, 0);
    leave();
}

async fn writes_stop_reads_go_on_and_recovery_is_noticed(disk: &Path) {
    let store = open(disk).await;
    let mut follower = Box::pin(store.follow(Revision(0)));
    let mut health = store.health();
    let (answered, cause) = commit_until_full(&store, disk).await;
    assert_eq!(cause.to_string(), NO_SPACE);
    assert_eq!(*health.borrow_and_update(), Health::Poisoned { cause: cause.clone() });

    // Refused at once, without another try.
    let refused = store.commit(vec![put(0)], vec![]).now_or_never();
    assert_eq!(refused, Some(Err(CommitError::Poisoned(cause.clone()))));

    // What was answered is read and followed; what failed is not.
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.revision, answered);
    for revision in 1..=answered.0 {
        let batch = follower.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(batch.revision, Revision(revision));
    }
    assert!(follower.next().now_or_never().is_none());

    fs::remove_file(filler(disk)).unwrap();
    let recoverable = Health::Recoverable { cause };
    let noticed = health.wait_for(|health| *health == recoverable);
    tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap().unwrap();
    leave();
}

async fn everything_is_there_on_the_full_disk(disk: &Path) {
    let store = open(disk).await;
    assert_holds_answered(&store, disk).await;
    // There may be room left in the store's own file; either way there is an answer, and it counts.
    commit(&store, disk, 1000).await;
    fill(disk, 0);
    leave();
}

async fn everything_is_there_and_writes_resume(disk: &Path) {
    let store = open(disk).await;
    assert_holds_answered(&store, disk).await;
    for n in 0..200 {
        store.commit(vec![put(n)], vec![]).await.unwrap();
    }
    store.close().await;
}

async fn a_new_store_is_refused(disk: &Path) {
    match first_start(disk).await {
        Err(OpenError::Full { dir }) => assert_eq!(dir, disk.join("store")),
        other => panic!("expected a full disk, not {other:?}"),
    }
    leave();
}

async fn a_new_store_is_refused_or_poisoned(disk: &Path) {
    match first_start(disk).await {
        Ok(store) => {
            let (_, cause) = commit(&store, disk, 2000).await;
            assert!(cause.is_none_or(|cause| cause.to_string() == NO_SPACE));
        }
        Err(OpenError::Full { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    leave();
}

async fn first_start(disk: &Path) -> Result<SledStore, OpenError> {
    let dir = disk.join("store");
    let started = SledStore::open(&dir, options());
    tokio::time::timeout(Duration::from_secs(20), started).await.expect("an answer in 20 s")
}

/// Commits a little, fills the disk, and commits until that fails.
async fn commit_until_full(store: &SledStore, disk: &Path) -> (Revision, Cause) {
    assert!(commit(store, disk, 100).await.1.is_none());
    fill(disk, 700 << 10);
    let (answered, cause) = commit(store, disk, 10_000).await;
    (answered, cause.expect("the disk gets full"))
}

/// Makes up to `most` commits, as long as they succeed. Notes what was answered.
async fn commit(store: &SledStore, disk: &Path, most: u32) -> (Revision, Option<Cause>) {
    let mut answered = store.load().await.unwrap().revision;
    let mut cause = None;
    for n in 0..most {
        let outcome = tokio::time::timeout(Duration::from_secs(20), store.commit(vec![put(n)], vec![]));
        match outcome.await.expect("an answer in 20 s") {
            Ok(revision) => answered = revision,
            Err(CommitError::Poisoned(reason)) => {
                cause = Some(reason);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    note(disk, answered);
    (answered, cause)
}

async fn assert_holds_answered(store: &SledStore, disk: &Path) {
    let loaded = store.load().await.unwrap();
    let answered = fs::read_to_string(notes(disk)).map_or(0, |noted| noted.trim().parse().unwrap());
    assert!(loaded.revision.0 >= answered, "answered {answered}, holds {}", loaded.revision);
}

async fn open(disk: &Path) -> SledStore {
    SledStore::open(&disk.join("store"), options()).await.unwrap()
}

fn options() -> Options {
    Options::default().with_history(256 << 10)
}

fn put(n: u32) -> Change {
    Change::Put { key: format!("k/{}", n % 500).into(), value: Bytes::from(vec![n as u8; 1000]) }
}

/// Leaves `spare` bytes free, as near as whole pages allow.
fn fill(disk: &Path, spare: usize) {
    let mut file = File::options().create(true).append(true).open(filler(disk)).unwrap();
    loop {
        match file.write(&[0xee; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => panic!("{error}"),
        }
    }
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(spare as u64)).unwrap();
}

/// A disk on which the notes have their place already.
fn disk() -> Disk {
    let disk = Disk::small(DISK_BYTES).unwrap();
    fs::write(notes(&disk.path()), format!("{:>4000}", 0)).unwrap();
    disk
}

fn filler(disk: &Path) -> PathBuf {
    disk.join("filler")
}

/// What was answered is noted in a file that was made while there was space, and keeps its size.
fn note(disk: &Path, answered: Revision) {
    let mut file = File::options().write(true).open(notes(disk)).unwrap();
    file.write_all(format!("{answered:>4000}").as_bytes()).unwrap();
}

fn notes(disk: &Path) -> PathBuf {
    disk.join("answered")
}

fn step() -> Option<(PathBuf, String)> {
    Some((env::var_os(DISK)?.into(), env::var(STEP).ok()?))
}

/// Runs one step of `test` in a process of its own.
fn run(test: &str, step: &str, disk: &Disk) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture"]).env(DISK, disk.path()).env(STEP, step);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "step {step}: {}\n{text}", output.status);
}

/// Ends the process as kill -9 does: nothing is put in order.
fn leave() -> ! {
    std::process::exit(0)
}
