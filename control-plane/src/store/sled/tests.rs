//! What the sled store must do beyond the suite: survive being reopened, and say what is wrong with a
//! directory.

use std::{fs, time::Duration};

use tempfile::TempDir;

use super::{
    super::{
        seal,
        suite::{self, Fixture, delete, followed, load, put},
    },
    layout::Part,
    *,
};

/// So little history that a snapshot is begun as soon as it can be: the third commit names one of the first.
const LEAST: usize = 8;

struct Sled(TempDir);

impl Fixture for Sled {
    type Store = SledStore;

    async fn store(&self, history_bytes: usize) -> SledStore {
        let dir = tempfile::tempdir_in(self.0.path()).unwrap().keep();
        open(&dir, history_bytes).await
    }
}

async fn open(dir: &Path, history_bytes: usize) -> SledStore {
    SledStore::open(dir, Options::default().with_history(history_bytes)).await.unwrap()
}

async fn open_error(dir: &Path) -> String {
    SledStore::open(dir, Options::default()).await.unwrap_err().to_string()
}

/// Changes sled's files behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&::sled::Db)) {
    let db = ::sled::Config::new().path(dir).open().unwrap();
    change(&db);
    db.flush().unwrap();
}

suite::store_suite!(Sled(tempfile::tempdir().unwrap()));

#[tokio::test]
async fn reopening_brings_back_records_history_and_hash() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), 20_000).await;
    let mut revision = 0;
    for round in 0..5 {
        let calls: Vec<_> = (0..300)
            .map(|n| {
                let change = match n % 10 {
                    9 => delete(&format!("k{}", n / 2)),
                    3 => Change::Put { key: format!("k{n}").into(), value: Bytes::from(vec![round; n * 20]) },
                    _ => put(&format!("k{}", n % 50), &format!("{round}/{n}")),
                };
                store.commit(vec![change], vec![])
            })
            .collect();
        for call in calls {
            revision = call.await.unwrap().0;
        }
        // Groups by themselves, so that a snapshot becomes whole.
        for n in 0..10 {
            revision = store.commit(vec![put("last", &n.to_string())], vec![]).await.unwrap().0;
        }
        let before = load(&store).await;
        // Whole groups are trimmed, and the first round may be one group.
        assert!(round == 0 || before.history.len() < revision as usize, "history was trimmed");
        store.close().await;
        store = open(dir.path(), 20_000).await;
        assert_eq!(load(&store).await, before);
        let oldest = before.history[0].revision.0 - 1;
        assert_eq!(followed(&store, oldest, before.history.len()).await, before.history);
    }
    assert_eq!(store.commit(vec![put("a", "1")], vec![]).await, Ok(Revision(revision + 1)));
}

#[tokio::test]
async fn what_was_queued_before_closing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 20).await;
    let calls: Vec<_> = (0..2000).map(|n| store.commit(vec![put(&format!("k{n}"), "x")], vec![])).collect();
    store.close().await;
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(load(&open(dir.path(), 1 << 20).await).await.records.len(), 2000);
}

#[tokio::test]
async fn nothing_spills_into_files_that_our_fdatasync_does_not_cover() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 20).await;
    let longest = "k".repeat(super::super::MAX_KEY_BYTES - 4);
    let calls: Vec<_> = (0..400)
        .map(|n| {
            let value = Bytes::from(vec![n as u8; super::super::MAX_VALUE_BYTES]);
            store.commit(vec![Change::Put { key: format!("{n:04}{longest}").into(), value }], vec![])
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_opener_is_told_which_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path(), 1 << 20).await;
    let expected = format!("store {} is in use by another process", dir.path().display());
    assert_eq!(open_error(dir.path()).await, expected);
}

#[tokio::test]
async fn an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 1 << 20).await.close().await;
    tamper(dir.path(), |db| {
        db.open_tree("meta").unwrap().insert(layout::FORMAT_NAME, &7_u32.to_le_bytes()).unwrap();
    });
    let expected =
        format!("store {} has format 7, this version reads formats 1 to 2 only", dir.path().display());
    assert_eq!(open_error(dir.path()).await, expected);
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tamper(dir.path(), |db| {
        db.insert("theirs", "data").unwrap();
    });
    let error = open_error(dir.path()).await;
    assert!(error.contains("is not a store of this program"), "{error}");
}

#[tokio::test]
async fn a_corrupt_page_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    tamper(dir.path(), |db| {
        let snapshots = db.open_tree(Part::Snapshots.name()).unwrap();
        let (key, value) = snapshots.first().unwrap().unwrap();
        let mut value = value.to_vec();
        value[10] ^= 1;
        snapshots.insert(key, value).unwrap();
    });
    let expected = format!("snapshots/1/0 in store {} is corrupt", dir.path().display());
    assert_eq!(open_error(dir.path()).await, expected);
}

#[tokio::test]
async fn missing_records_and_a_missing_page_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    let page = |payload: &[u8]| layout::page(1, 0, payload).remove(0);
    tamper(dir.path(), |db| {
        let (key, nothing) = page(&[]);
        db.open_tree(Part::Snapshots.name()).unwrap().insert(key, nothing.unwrap()).unwrap();
    });
    let error = open_error(dir.path()).await;
    assert!(error.ends_with("contradicts itself: its records are not those of revision 3"), "{error}");
    tamper(dir.path(), |db| {
        db.open_tree(Part::Snapshots.name()).unwrap().remove(page(&[]).0).unwrap().unwrap();
    });
    let error = open_error(dir.path()).await;
    assert!(error.ends_with("contradicts itself: it has 0 of the 1 pages of its records"), "{error}");
}

#[tokio::test]
async fn a_missing_batch_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    let remove = |revision: u64| {
        tamper(dir.path(), |db| {
            let name = [&revision.to_be_bytes()[..], &[0, 0]].concat();
            db.open_tree(Part::Journal.name()).unwrap().remove(name).unwrap().unwrap();
        });
    };
    remove(2);
    let error = open_error(dir.path()).await;
    assert!(error.ends_with("contradicts itself: batch 3 does not follow batch 1"), "{error}");
    remove(1);
    let error = open_error(dir.path()).await;
    let gap = "its records are those of revision 1, its journal begins after revision 2";
    assert!(error.ends_with(gap), "{error}");
}

#[tokio::test]
async fn a_store_of_format_1_is_opened_and_changed_by_its_first_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 20).await;
    for n in 0..20 {
        let value = Bytes::from(vec![n; usize::from(n) * 700]);
        store.commit(vec![Change::Put { key: format!("k{n}").into(), value }], vec![]).await.unwrap();
    }
    store.commit(vec![delete("k3"), put("k4", "x")], vec![]).await.unwrap();
    let before = load(&store).await;
    store.close().await;
    make_format_1(dir.path(), &before);

    let store = open(dir.path(), 1 << 20).await;
    assert_eq!(load(&store).await, before);
    store.close().await;
    assert_eq!(format_and_records(dir.path()), (1, true));

    let store = open(dir.path(), LEAST).await;
    assert_eq!(load(&store).await, before);
    store.commit(vec![put("new", "1")], vec![]).await.unwrap();
    store.close().await;
    assert_eq!(format_and_records(dir.path()), (2, true));

    let store = open(dir.path(), LEAST).await;
    for n in 0..10 {
        store.commit(vec![put("new", &n.to_string())], vec![]).await.unwrap();
    }
    let before = load(&store).await;
    store.close().await;
    assert_eq!(format_and_records(dir.path()), (2, false));
    assert_eq!(load(&open(dir.path(), LEAST).await).await, before);
}

/// Three commits of a record each, each before the last one, so that no page is left after the first; the base is at
/// the first commit.
async fn three_commits(dir: &Path) {
    let store = open(dir, LEAST).await;
    for key in ["c", "b", "a"] {
        store.commit(vec![put(key, "x")], vec![]).await.unwrap();
    }
    store.close().await;
}

/// Makes what format 1 would have been with these records: each by itself, and no base.
fn make_format_1(dir: &Path, loaded: &Loaded) {
    tamper(dir, |db| {
        let meta = db.open_tree(Part::Meta.name()).unwrap();
        for piece in meta.scan_prefix(layout::BASE).keys() {
            meta.remove(piece.unwrap()).unwrap().unwrap();
        }
        meta.insert(layout::FORMAT_NAME, &1_u32.to_le_bytes()).unwrap();
        let records = db.open_tree(Part::Records.name()).unwrap();
        for record in &loaded.records {
            let name = [record.key.as_bytes(), &[0]].concat();
            let payload = [&record.mod_revision.0.to_le_bytes()[..], &record.value].concat();
            for (number, piece) in seal::seal(&name, &payload).chunks(layout::PIECE).enumerate() {
                let key = [&name[..], &(number as u16).to_be_bytes()].concat();
                records.insert(key, piece).unwrap();
            }
        }
    });
}

/// What the mark says, and whether there are records by themselves.
fn format_and_records(dir: &Path) -> (u32, bool) {
    let mut found = (0, false);
    tamper(dir, |db| {
        let format = db.open_tree(Part::Meta.name()).unwrap().get(layout::FORMAT_NAME).unwrap().unwrap();
        let records = db.open_tree(Part::Records.name()).unwrap();
        found = (u32::from_le_bytes(<[u8; 4]>::try_from(&*format).unwrap()), !records.is_empty());
    });
    found
}

#[tokio::test]
async fn a_torn_snapshot_of_sled_does_not_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 20).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let before = load(&store).await;
    store.close().await;
    // Half-written when the power went, and one that was renamed before its contents were on disk.
    fs::write(dir.path().join("snap.0000000000000FFF.generating"), b"half").unwrap();
    fs::write(dir.path().join("snap.0000000000000FFE"), vec![0; 64]).unwrap();
    assert_eq!(load(&open(dir.path(), 1 << 20).await).await, before);
}

#[tokio::test]
async fn a_copy_is_the_same_store_and_takes_nobodys_place() {
    let dir = tempfile::tempdir().unwrap();
    let original = open(&dir.path().join("original"), 1 << 20).await;
    for n in 0..300 {
        let change = Change::Put { key: format!("k{}", n % 40).into(), value: vec![7; n * 20].into() };
        original.commit(vec![change, put("n", &n.to_string())], vec![]).await.unwrap();
    }
    let loaded = load(&original).await;
    let copy = dir.path().join("copy");
    // What a copy has left that was cut off.
    fs::create_dir(dir.path().join("copy.half")).unwrap();
    fs::write(dir.path().join("copy.half/db"), "half").unwrap();
    SledStore::create_copy(&copy, loaded.clone()).await.unwrap();
    let copied = open(&copy, 1 << 20).await;
    assert_eq!(load(&copied).await, loaded);
    assert_eq!(copied.commit(vec![put("a", "1")], vec![]).await, Ok(Revision(301)));
    let refused = SledStore::create_copy(&copy, loaded).await.unwrap_err().to_string();
    assert_eq!(refused, format!("store {}: the directory is not empty", copy.display()));
    assert!(!dir.path().join("copy.half").exists());
}

#[tokio::test]
async fn the_directory_is_private_and_holds_a_ballast() {
    use std::os::unix::fs::PermissionsExt;

    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/store");
    let store = open(&dir, 1 << 20).await;
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dir.join("ballast")).unwrap().len(), ballast::BALLAST_BYTES);
    drop(store);
}

#[tokio::test]
async fn a_panic_in_the_committer_poisons_and_a_working_disk_makes_it_recoverable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 20).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let mut health = store.health();
    store.queue.poison("made up".into());
    assert_eq!(store.commit(vec![put("b", "1")], vec![]).await, Err(CommitError::Poisoned("made up".into())));
    let recoverable = Health::Recoverable { cause: "made up".into() };
    let waited = health.wait_for(|health| *health == recoverable);
    tokio::time::timeout(Duration::from_secs(10), waited).await.unwrap().unwrap();
    assert_eq!(load(&store).await.records.len(), 1);
}
