use std::collections::BTreeSet;
use std::future::Future;

use futures_util::future::{FutureExt, join_all};
use proptest::prelude::*;
use tokio::sync::watch;

use super::testing::{Bench, Fault, Faulty, acquire, create, name};
use super::*;
use crate::knocks::Knocks;
use crate::ledger::{LeaseState, Refusal};
use crate::store::{CommitError, MemoryStore};

async fn reloaded(store: &impl Store) -> Ledger {
    Ledger::load(&store.load().await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_answer_can_be_read_at_once_and_is_what_the_store_holds() {
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let lease = bench.acquire("a", 1).await;
    assert_eq!(bench.clerk.read(|ledger| ledger.lease(&name("a"))), Some(lease.clone()));
    assert_eq!(bench.clerk.revision().0, lease.revision);
    assert_eq!(bench.clerk.read(Clone::clone), reloaded(&*store).await);
}

#[tokio::test]
async fn a_thousand_commands_at_once_are_all_decided_on_each_other() {
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let nodes: Vec<_> = (0..1000).map(|n| format!("node-{n}")).collect();
    let acquired = nodes.iter().zip(0..).map(|(node, n)| bench.acquire(node, n));
    let leases = join_all(acquired).await;
    let slots: BTreeSet<_> = leases.iter().map(|lease| lease.subnets).collect();
    assert_eq!(slots.len(), 1000);
    assert_eq!(bench.clerk.read(Clone::clone), reloaded(&*store).await);
}

#[tokio::test]
async fn after_a_conflict_the_command_is_decided_again() {
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let at = bench.clerk.revision();
    store.plan((0..16).map(|_| Fault::Fails(CommitError::Conflict(at))));
    let (a, b) = tokio::join!(bench.acquire("a", 1), bench.acquire("b", 2));
    assert_ne!(a.subnets, b.subnets);
    assert_eq!(bench.clerk.read(Clone::clone), reloaded(&*store).await);
}

#[tokio::test]
async fn a_command_that_conflicts_seventeen_times_is_aborted() {
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    let at = bench.clerk.revision();
    store.plan((0..17).map(|_| Fault::Fails(CommitError::Conflict(at))));
    assert_eq!(bench.clerk.submit(create("blue")).await, Err(SubmitError::Aborted(17)));
    bench.create("blue").await;
}

#[tokio::test]
async fn somebody_elses_commit_is_taken_over_before_the_next_decision() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (Bench::start(&store).await, Bench::start(&store).await);
    one.begin(1).await;
    one.create("blue").await;
    let ours = (0..40).map(|n| (&one, format!("one-{n}"), n));
    let theirs = (0..40).map(|n| (&other, format!("other-{n}"), 1000 + n));
    let all = ours.chain(theirs).map(|(bench, node, n)| async move { bench.acquire(&node, n).await });
    let leases = join_all(all).await;
    let slots: BTreeSet<_> = leases.iter().map(|lease| lease.subnets).collect();
    assert_eq!(slots.len(), 80);
    let ledger = reloaded(&*store).await;
    for lease in leases {
        assert_eq!(ledger.lease(&lease.name), Some(lease));
    }
}

#[tokio::test]
async fn a_poisoned_store_fails_writers_while_reads_and_free_answers_go_on() {
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let lease = bench.acquire("a", 1).await;
    store.poison("the disk is full");
    let failure = SubmitError::Store(StoreFailure("the disk is full".into()));
    assert_eq!(bench.try_acquire("b", 2, None).await, Err(failure.clone()));
    assert_eq!(bench.try_acquire("b", 2, None).await, Err(failure));
    assert_eq!(bench.clerk.read(|ledger| ledger.lease(&name("b"))), None);
    let renew = Command::RenewLease { name: name("a"), epoch: Some(lease.epoch) };
    assert!(matches!(bench.clerk.submit(renew).await, Ok(Answer::Lease(..))), "covered on disk");
    assert!(matches!(*bench.clerk.store_health().borrow(), Health::Poisoned { .. }));
}

#[tokio::test]
async fn poison_while_commits_are_in_flight_answers_every_one_of_them() {
    let (ring, bell) = watch::channel(false);
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let poisoned = || CommitError::Poisoned("gone".into());
    store.plan((0..100).map(|_| Fault::FailsLater(bell.clone(), poisoned())));
    let nodes: Vec<_> = (0..100).map(|n| format!("node-{n}")).collect();
    let acquired = nodes.iter().zip(0..).map(|(node, n)| bench.try_acquire(node, n, None));
    let (outcomes, ()) = tokio::join!(join_all(acquired), async {
        tokio::task::yield_now().await;
        ring.send_replace(true);
    });
    let failure = SubmitError::Store(StoreFailure("gone".into()));
    assert!(outcomes.iter().all(|outcome| outcome.as_ref() == Err(&failure)), "{outcomes:?}");
    assert_eq!(bench.clerk.read(|ledger| ledger.lease_count()), 0);
}

/// Polls until nothing more can happen by itself.
async fn stays_pending<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..50 {
        if future.now_or_never().is_some() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

#[tokio::test]
async fn a_refusal_that_rests_on_an_unfinished_commit_waits_for_it_and_is_taken_back_if_it_fails() {
    let (ring, bell) = watch::channel(false);
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    store.plan([Fault::FailsLater(bell, CommitError::Unknown)]);
    let mut first = Box::pin(bench.clerk.submit(create("blue")));
    assert!(stays_pending(&mut first).await);
    let mut second = Box::pin(bench.clerk.submit(create("blue")));
    assert!(stays_pending(&mut second).await, "`exists already` would rest on what is not committed");
    ring.send_replace(true);
    assert!(matches!(first.await, Err(SubmitError::Store(_))));
    assert!(matches!(second.await, Ok(Answer::Network(_))), "decided again");
}

#[tokio::test]
async fn a_refusal_that_rests_on_a_commit_is_given_once_that_was_applied() {
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    let (first, second) =
        tokio::join!(bench.clerk.submit(create("blue")), bench.clerk.submit(create("blue")));
    assert!(matches!(first, Ok(Answer::Network(_))));
    assert!(matches!(second, Err(SubmitError::Refused(_))));
}

#[tokio::test]
async fn nothing_is_shown_of_what_is_not_committed() {
    let (ring, bell) = watch::channel(false);
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    store.plan([Fault::FailsLater(bell, CommitError::Closed)]);
    let mut acquired = Box::pin(bench.try_acquire("a", 1, None));
    assert!(stays_pending(&mut acquired).await);
    assert_eq!(bench.clerk.read(|ledger| ledger.lease(&name("a"))), None);
    ring.send_replace(true);
    assert!(acquired.await.is_err());
}

#[tokio::test]
async fn what_is_durable_is_shown_though_its_answer_is_late() {
    let (ring, bell) = watch::channel(false);
    let store = Faulty::new([]);
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    store.plan([Fault::AnswersLater(bell)]);
    let mut acquired = Box::pin(bench.try_acquire("a", 1, None));
    assert!(stays_pending(&mut acquired).await);
    let lease = bench.clerk.read(|ledger| ledger.lease(&name("a"))).unwrap();
    assert!(matches!(lease.state, LeaseState::Active));
    ring.send_replace(true);
    assert_eq!(acquired.await.unwrap(), lease);
}

#[tokio::test]
async fn a_network_with_many_leases_is_deleted_in_steps_and_answered_after_the_last() {
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let nodes: Vec<_> = (0..300).map(|n| format!("node-{n}")).collect();
    join_all(nodes.iter().zip(0..).map(|(node, n)| bench.acquire(node, n))).await;
    let delete = Command::DeleteNetwork { id: "blue".parse().unwrap(), force: true };
    assert_eq!(bench.clerk.submit(delete).await, Ok(Answer::Nothing));
    assert_eq!(bench.clerk.read(|ledger| ledger.networks().count()), 0);
    assert_eq!(bench.clerk.read(Clone::clone), reloaded(&*store).await);
}

#[tokio::test]
async fn a_deletion_that_was_begun_may_be_finished_by_somebody_else() {
    let store = Arc::new(MemoryStore::new());
    let bench = Bench::start(&store).await;
    bench.begin(1).await;
    bench.create("blue").await;
    let delete = Command::DeleteNetwork { id: "blue".parse().unwrap(), force: false };
    // The mark is decided first, then tidying goes on with what it sees marked.
    let (deleted, tidied) =
        tokio::join!(bench.clerk.submit(delete.clone()), bench.clerk.submit(Command::Tidy));
    assert_eq!((deleted, tidied), (Ok(Answer::Nothing), Ok(Answer::Nothing)));
    assert_eq!(bench.clerk.read(|ledger| ledger.networks().count()), 0);
    assert!(matches!(bench.clerk.submit(delete).await, Err(SubmitError::Refused(Refusal::NotFound(_)))));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_the_start_and_is_named() {
    let store = Arc::new(MemoryStore::new());
    let change = crate::store::Change::Put { key: "network/blue".into(), value: b"{".as_slice().into() };
    store.commit(vec![change], vec![]).await.unwrap();
    let feeds =
        Feeds::new(crate::feed::TokenKey::new(b""), Knocks::default(), crate::feed::FeedOptions::default());
    let options = ClerkOptions {
        defaults: Defaults::default(),
        streaming: Arc::new(crate::watch::Streams::default()),
        settling: Settling::default(),
        knocks: Knocks::default(),
        now: Arc::new(SystemTime::now),
    };
    let error = Clerk::start(store, feeds, options).await.unwrap_err().to_string();
    assert!(error.contains("\"network/blue\""), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever conflicts and failures there are: the committed ledger is what the store holds, and what
    /// was acknowledged is in it.
    #[test]
    fn acknowledged_is_committed(
        commands in proptest::collection::vec((0_u16..12, 0_u8..4), 1..80),
        faults in proptest::collection::vec(0_u8..6, 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = Faulty::new([]);
            let bench = Bench::start(&store).await;
            bench.begin(1).await;
            bench.create("blue").await;
            let at = bench.clerk.revision();
            store.plan(faults.iter().map(|fault| match fault {
                0 => Fault::Fails(CommitError::Conflict(at)),
                1 => Fault::Fails(CommitError::Busy),
                _ => Fault::None,
            }));
            let submitted = commands.iter().map(|(n, kind)| {
                let node = format!("node-{n}");
                let command = match kind {
                    0 => Command::ReleaseLease { name: name(&node), epoch: None },
                    1 => Command::RenewLease { name: name(&node), epoch: None },
                    _ => acquire(&node, *n, None),
                };
                bench.clerk.submit(command)
            });
            let outcomes = join_all(submitted).await;
            assert_eq!(bench.clerk.read(Clone::clone), reloaded(&*store).await);
            for outcome in outcomes {
                if let Ok(Answer::Lease(lease, _)) = outcome {
                    assert!(lease.revision <= bench.clerk.revision().0);
                }
            }
        });
    }
}

#[tokio::test]
async fn a_desk_that_died_is_no_quiet_clerk() {
    let options = ClerkOptions {
        defaults: Defaults::default(),
        streaming: Arc::new(crate::watch::Streams::default()),
        settling: Settling::default(),
        knocks: Knocks::default(),
        now: Arc::new(|| panic!("no time for this test")),
    };
    let feeds = Feeds::new(crate::feed::TokenKey::new(b"key"), Knocks::default(), testing::feed_options());
    let (mut tasks, clerk) = Clerk::start(Arc::new(MemoryStore::new()), feeds, options).await.unwrap();
    assert!(matches!(clerk.submit(create("blue")).await, Err(SubmitError::Store(_))));
    assert!(matches!(tasks.ended().await, ClerkError::Died(_)));
}

#[tokio::test]
async fn what_others_have_committed_counts_in_answers_that_need_no_commit() {
    let store = Arc::new(MemoryStore::new());
    let one = Bench::start(&store).await;
    one.begin(1).await;
    one.create("blue").await;
    let lease = one.acquire("a", 1).await;
    let sharing = Faulty::sharing(&store);
    let other = Bench::start(&sharing).await;
    for _ in 0..20 {
        // Answered by the one; whether the other has heard of it already is up to chance.
        let release = Command::ReleaseLease { name: name("a"), epoch: None };
        one.clerk.submit(release).await.unwrap();
        let renew = Command::RenewLease { name: name("a"), epoch: Some(lease.epoch) };
        assert!(matches!(other.clerk.submit(renew).await, Err(SubmitError::Refused(_))));
        one.acquire("a", 1).await;
        let again = other.try_acquire("a", 1, None).await.unwrap();
        assert_eq!(again, one.clerk.read(|ledger| ledger.lease(&name("a"))).unwrap());
    }
    let ledger = reloaded(&*store).await;
    assert_eq!(other.clerk.read(Clone::clone), ledger);
}
