//! What every store must do: one suite, run by each of them.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join_all};

use super::{
    Batch, Change, CommitError, Guard, Health, InvalidCommit, Key, Loaded, MAX_VALUE_BYTES, Revision,
    RollingHash, Store, StoreError,
};

/// Makes an empty store that keeps at least this many bytes of history.
pub(super) trait Fixture {
    type Store: Store;

    async fn store(&self, history_bytes: usize) -> Self::Store;
}

/// Much more than any test here writes.
const ALL: usize = 1 << 20;

/// One test for each claim, with the fixture that the expression makes.
macro_rules! store_suite {
    ($fixture:expr) => {
        $crate::store::suite::store_suite! { $fixture;
            an_empty_store_is_at_revision_zero
            a_commit_is_all_or_nothing
            guards_are_checked_against_the_last_change
            a_failed_guard_fails_only_its_own_commit
            commits_are_made_in_the_order_of_their_calls
            a_dropped_future_does_not_undo_its_call
            of_concurrent_claims_one_wins
            followers_see_every_batch_once_in_order_from_anywhere
            a_follower_waits_for_what_is_to_come
            a_follower_outlives_no_store
            history_before_the_limit_is_compacted
            a_position_ahead_of_the_store_is_refused
            loading_and_following_agree
            limits_are_enforced_at_the_door
            values_of_every_size_come_back
        }
    };
    ($fixture:expr; $($claim:ident)+) => {
        $(
            #[tokio::test]
            async fn $claim() {
                $crate::store::suite::$claim(&$fixture).await;
            }
        )+
    };
}
pub(super) use store_suite;

pub(super) async fn an_empty_store_is_at_revision_zero(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let nothing = Loaded {
        revision: Revision(0),
        hash: RollingHash(0),
        records: vec![],
        history: vec![],
        hash_before_history: RollingHash(0),
    };
    assert_eq!(load(store).await, nothing);
    assert_eq!(*store.health().borrow(), Health::Healthy);
}

pub(super) async fn a_commit_is_all_or_nothing(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    assert_eq!(store.commit(vec![put("a", "1"), put("b", "1")], vec![]).await, Ok(Revision(1)));
    let guards = vec![Guard::Absent("c".into()), Guard::Absent("a".into())];
    let refused = store.commit(vec![put("c", "2"), delete("b")], guards).await;
    assert_eq!(refused, Err(CommitError::Conflict(Revision(1))));
    assert_eq!(contents(store).await, ["a=1@1", "b=1@1"]);
    assert_eq!(load(store).await.revision, Revision(1));
    assert_eq!(store.commit(vec![put("c", "2"), delete("b")], vec![]).await, Ok(Revision(2)));
    assert_eq!(contents(store).await, ["a=1@1", "c=2@2"]);
}

pub(super) async fn guards_are_checked_against_the_last_change(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let unchanged = |revision| vec![Guard::Unchanged { key: "a".into(), revision: Revision(revision) }];
    let absent = || vec![Guard::Absent("a".into())];
    let conflict = |revision| Err(CommitError::Conflict(Revision(revision)));
    assert_eq!(store.commit(vec![put("a", "x")], unchanged(0)).await, conflict(0));
    assert_eq!(store.commit(vec![put("a", "1")], absent()).await, Ok(Revision(1)));
    assert_eq!(store.commit(vec![put("a", "x")], absent()).await, conflict(1));
    assert_eq!(store.commit(vec![put("a", "2")], unchanged(1)).await, Ok(Revision(2)));
    assert_eq!(store.commit(vec![put("a", "x")], unchanged(1)).await, conflict(2));
    // The same value again is a change too.
    assert_eq!(store.commit(vec![put("a", "2")], unchanged(2)).await, Ok(Revision(3)));
    assert_eq!(store.commit(vec![delete("a")], unchanged(3)).await, Ok(Revision(4)));
    assert_eq!(store.commit(vec![put("a", "x")], unchanged(3)).await, conflict(4));
    assert_eq!(store.commit(vec![put("a", "5")], absent()).await, Ok(Revision(5)));
    assert_eq!(contents(store).await, ["a=5@5"]);
}

pub(super) async fn a_failed_guard_fails_only_its_own_commit(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let calls = (0..20).map(|n| {
        let guards = if n % 2 == 1 { vec![Guard::Absent("0".into())] } else { vec![] };
        store.commit(vec![put(&n.to_string(), "x")], guards)
    });
    let outcomes = join_all(calls.collect::<Vec<_>>()).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let expected = match n % 2 {
            0 => Ok(Revision(n as u64 / 2 + 1)),
            _ => Err(CommitError::Conflict(Revision(1))),
        };
        assert_eq!(outcome, expected, "commit {n}");
    }
}

pub(super) async fn commits_are_made_in_the_order_of_their_calls(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let mut guards = vec![Guard::Absent("a".into())];
    let mut calls = Vec::new();
    for n in 1..=1000 {
        // Each one stands on the one before, which nobody has waited for.
        calls.push(store.commit(vec![put("a", &n.to_string())], guards));
        guards = vec![Guard::Unchanged { key: "a".into(), revision: Revision(n) }];
    }
    // Polled in the wrong order, too.
    for (n, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(call.await, Ok(Revision(n as u64 + 1)));
    }
    assert_eq!(contents(store).await, ["a=1000@1000"]);
}

pub(super) async fn a_dropped_future_does_not_undo_its_call(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    drop(store.commit(vec![put("a", "1")], vec![]));
    assert_eq!(store.commit(vec![put("b", "2")], vec![]).await, Ok(Revision(2)));
    assert_eq!(contents(store).await, ["a=1@1", "b=2@2"]);
}

pub(super) async fn of_concurrent_claims_one_wins(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let claims = (0..256).map(|n| {
        let slot = format!("slot/{}", n / 8);
        store.commit(vec![put(&slot, &n.to_string())], vec![Guard::Absent(slot.as_str().into())])
    });
    let outcomes = join_all(claims.collect::<Vec<_>>()).await;
    for claims in outcomes.chunks(8) {
        assert_eq!(claims.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
    assert_eq!(load(store).await.records.len(), 32);
}

pub(super) async fn followers_see_every_batch_once_in_order_from_anywhere(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    for n in 1..=300 {
        store.commit(vec![put("a", &n.to_string()), put("b", "x")], vec![]).await.unwrap();
    }
    let all = followed(store, 0, 300).await;
    assert_eq!(all.iter().map(|batch| batch.revision.0).collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
    assert_eq!(all[41].changes[..], [put("a", "42"), put("b", "x")]);
    for after in [1, 137, 299, 300] {
        assert_eq!(followed(store, after, 300 - after as usize).await, all[after as usize..]);
    }
    let mut hash = RollingHash::default();
    for batch in &all {
        hash = hash.after(batch.revision, &batch.changes);
        assert_eq!(batch.hash, hash);
    }
    assert_eq!(load(store).await.hash, hash);
}

pub(super) async fn a_follower_waits_for_what_is_to_come(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let mut follower = pin!(store.follow(Revision(0)));
    assert!(follower.next().now_or_never().is_none());
    for n in 1..=3 {
        let revision = store.commit(vec![put("a", &n.to_string())], vec![]).await.unwrap();
        // Answered means published: nothing has to be waited for.
        let batch = follower.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(batch.revision, revision);
        assert!(follower.next().now_or_never().is_none());
    }
}

pub(super) async fn a_follower_outlives_no_store(fixture: &impl Fixture) {
    let store = fixture.store(ALL).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let mut follower = pin!(store.follow(Revision(0)));
    drop(store);
    assert_eq!(within(follower.next()).await.unwrap().unwrap().revision, Revision(1));
    assert_eq!(within(follower.next()).await, None);
}

pub(super) async fn history_before_the_limit_is_compacted(fixture: &impl Fixture) {
    let store = &fixture.store(2000).await;
    for n in 1..=100 {
        store.commit(vec![put("a", &n.to_string())], vec![]).await.unwrap();
    }
    let loaded = load(store).await;
    let oldest = Revision(100 - loaded.history.len() as u64);
    assert!((1..100).contains(&oldest.0), "history begins after {oldest}");
    assert_eq!(followed(store, oldest.0, loaded.history.len()).await, loaded.history);
    let mut too_early = pin!(store.follow(Revision(oldest.0 - 1)));
    let asked = Revision(oldest.0 - 1);
    assert_eq!(within(too_early.next()).await, Some(Err(StoreError::Compacted { asked, oldest })));
    assert_eq!(within(too_early.next()).await, None);
}

pub(super) async fn a_position_ahead_of_the_store_is_refused(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    store.commit(vec![put("a", "1")], vec![]).await.unwrap();
    let mut ahead = pin!(store.follow(Revision(2)));
    let error = StoreError::Ahead { asked: Revision(2), revision: Revision(1) };
    assert_eq!(within(ahead.next()).await, Some(Err(error)));
}

pub(super) async fn loading_and_following_agree(fixture: &impl Fixture) {
    let store = &fixture.store(3000).await;
    for n in 0..200_u32 {
        let change =
            if n % 7 == 6 { delete(&format!("k{}", n % 5)) } else { put(&format!("k{}", n % 11), "x") };
        store.commit(vec![change], vec![]).await.unwrap();
    }
    let loaded = load(store).await;
    assert_eq!(loaded.history.last().map(|batch| batch.revision), Some(loaded.revision));
    let mut hash = loaded.hash_before_history;
    for batch in &loaded.history {
        hash = hash.after(batch.revision, &batch.changes);
        for change in batch.changes.iter() {
            let last =
                loaded.history.iter().rfind(|later| later.changes.iter().any(|it| it.key() == change.key()));
            let record = loaded.records.iter().find(|record| record.key == *change.key());
            if last.map(|last| last.revision) == Some(batch.revision) {
                let put = matches!(change, Change::Put { .. }).then_some(batch.revision);
                assert_eq!(record.map(|record| record.mod_revision), put);
            }
        }
    }
    assert_eq!(hash, loaded.hash);
    assert!(loaded.records.is_sorted_by_key(|record| record.key.clone()));
}

pub(super) async fn limits_are_enforced_at_the_door(fixture: &impl Fixture) {
    let store = &fixture.store(ALL).await;
    let large = Change::Put { key: "a".into(), value: vec![0; MAX_VALUE_BYTES + 1].into() };
    let error = InvalidCommit::ValueTooLarge { key: "a".into(), bytes: MAX_VALUE_BYTES + 1 };
    assert_eq!(store.commit(vec![large], vec![]).await, Err(CommitError::Invalid(error)));
    assert_eq!(store.commit(vec![], vec![]).await, Err(CommitError::Invalid(InvalidCommit::Empty)));
    assert_eq!(load(store).await.revision, Revision(0));
}

pub(super) async fn values_of_every_size_come_back(fixture: &impl Fixture) {
    let store = &fixture.store(8 << 20).await;
    for size in [0, 1, 4000, 4079, 4080, 4081, 8191, MAX_VALUE_BYTES, 5000, 3, MAX_VALUE_BYTES] {
        let value = Bytes::from_iter((0..size).map(|byte| byte as u8));
        let change = Change::Put { key: "a".into(), value: value.clone() };
        store.commit(vec![change], vec![]).await.unwrap();
        assert_eq!(load(store).await.records[0].value, value, "size {size}");
    }
}

pub(super) fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

pub(super) fn delete(key: &str) -> Change {
    Change::Delete { key: Key::from(key) }
}

pub(super) async fn load(store: &impl Store) -> Loaded {
    store.load().await.unwrap()
}

/// `key=value@revision` of every record.
async fn contents(store: &impl Store) -> Vec<String> {
    let records = load(store).await.records;
    records
        .iter()
        .map(|record| {
            format!("{}={}@{}", record.key, String::from_utf8_lossy(&record.value), record.mod_revision)
        })
        .collect()
}

/// The next `count` batches after `after`, and the claim that there is no further one.
pub(super) async fn followed(store: &impl Store, after: u64, count: usize) -> Vec<Batch> {
    let mut follower = pin!(store.follow(Revision(after)));
    let mut batches = Vec::new();
    while batches.len() < count {
        batches.push(within(follower.next()).await.unwrap().unwrap());
    }
    assert!(follower.next().now_or_never().is_none());
    batches
}

/// A test that hangs should say where.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing came within 20 s")
}
