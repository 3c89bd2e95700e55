//! Several control planes with state directories of their own, on one store.

use std::fs;
use std::path::Path;

use super::*;
use crate::clerk::testing::Bench;
use crate::identity::{Phase, Step};
use crate::store::MemoryStore;

const LIFE: Duration = Duration::from_secs(3600);

fn replica(directory: &Path, name: &str) -> (Config, Sharing) {
    replica_sealing(directory, name, "seal", 7)
}

fn replica_sealing(directory: &Path, name: &str, seal: &str, byte: u8) -> (Config, Sharing) {
    let seal = directory.join(seal);
    fs::write(&seal, [byte; 32]).unwrap();
    let mut config = Config { state_dir: directory.join(name), ..Config::default() };
    config.store.ca_seal_file = Some(seal);
    let sharing = Sharing::of(&config).unwrap().unwrap();
    (config, sharing)
}

fn root(pki: &Pki) -> String {
    pki.authority().trust_pem()
}

/// Two replicas that share one CA.
async fn two(directory: &Path, store: &MemoryStore) -> [(Sharing, Pki); 2] {
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory, name));
    let here = first.open(store, &one).await.unwrap().pki;
    let there = second.open(store, &other).await.unwrap().pki;
    [(first, here), (second, there)]
}

/// Puts another CA into `next/`, as an operator does.
fn put_next(pki: &Pki, elsewhere: &Path) -> String {
    let theirs = Pki::open_or_create(elsewhere, &"loden".parse().unwrap(), SystemTime::now()).unwrap();
    let next = pki.directory().join("next");
    fs::create_dir_all(&next).unwrap();
    for name in ["ca.key", "ca.crt"] {
        fs::copy(elsewhere.join(name), next.join(name)).unwrap();
    }
    theirs.authority().certificate_pem().to_owned()
}

/// A store in which a sealed CA is shared, and no more.
async fn restored(sealed: &str) -> MemoryStore {
    let store = MemoryStore::new();
    let (changes, guards) = Ledger::sharing_authority(sealed.to_owned(), None);
    store.commit(changes, guards).await.unwrap();
    store
}

async fn sealed_in(store: &MemoryStore) -> String {
    Ledger::shared_authority_of(&store.load().await.unwrap()).unwrap().unwrap().0
}

#[tokio::test]
async fn several_first_starts_make_one_ca_and_each_takes_up_what_another_has_changed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
    let (here, there) = tokio::join!(first.open(&*store, &one), second.open(&*store, &other));
    let (here, there) = (here.unwrap().pki, there.unwrap().pki);
    assert_eq!(root(&here), root(&there));
    assert_eq!(here.token_key().unwrap(), there.token_key().unwrap());

    let bench = Bench::start(&store).await;
    let before = first.begin(&bench.clerk, &here).await.unwrap().unwrap();
    here.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    first.share(&bench.clerk, &here, before).await.unwrap();
    second.meet(&bench.clerk, &there).await.unwrap();
    assert_eq!(there.authority().phase(), Phase::Prepared);
    assert_eq!(root(&here), root(&there));

    // Somebody who has not seen it yet is not first.
    there.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
    assert!(second.share(&bench.clerk, &there, before).await.is_err());
    assert_eq!(there.authority().phase(), Phase::Prepared, "what is shared was taken up again");
    assert_eq!(root(&here), root(&there));
}

#[tokio::test]
async fn the_key_of_tokens_comes_with_the_store_once_and_not_to_whoever_has_made_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let [(one, first), (other, second), (new, third)] =
        ["one", "other", "new"].map(|name| replica(directory.path(), name));
    // It was started by itself before, and what it has made gives way.
    drop(open(&other).unwrap());
    for (sharing, config, came) in [
        (&first, &one, false),
        (&first, &one, false),
        (&second, &other, true),
        (&second, &other, false),
        (&third, &new, true),
        (&third, &new, false),
    ] {
        let opening = sharing.open(&store, config).await.unwrap();
        assert_eq!(opening.key_came_with_store, came, "{}", config.state_dir.display());
    }
    assert!(!Opening::alone(&one).unwrap().key_came_with_store);
}

#[tokio::test]
async fn another_seal_opens_nothing_and_leaves_everything_until_an_operator_replaces_what_is_shared() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let (config, sharing) = replica(directory.path(), "one");
    let pki = sharing.open(&store, &config).await.unwrap().pki;
    let (other, wrong) = replica_sealing(directory.path(), "other", "another seal", 8);
    let error = wrong.open(&store, &other).await.unwrap_err().to_string();
    assert!(error.contains("was not sealed with this file") && error.contains("store share-ca"), "{error}");
    assert!(!other.pki_dir().join("ca.crt").exists());
    let error = wrong.replace(&store, &other).await.unwrap_err().to_string();
    assert!(error.ends_with("other/pki has no CA that could be shared"), "{error}");

    // The file is lost, the CA is not.
    let (config, sharing) = replica_sealing(directory.path(), "one", "another seal", 8);
    sharing.replace(&store, &config).await.unwrap();
    assert_eq!(root(&wrong.open(&store, &other).await.unwrap().pki), root(&pki));
}

/// As after the store was restored from a copy, or moved away, changed there, and moved back.
#[tokio::test]
async fn an_older_copy_in_the_store_does_not_come_back_over_the_ca_here() {
    let directory = tempfile::tempdir().unwrap();
    let [(one, first), (other, second), (new, third)] =
        ["one", "other", "new"].map(|name| replica(directory.path(), name));
    let store = Arc::new(MemoryStore::new());
    let here = first.open(&*store, &one).await.unwrap().pki;
    drop(second.open(&*store, &other).await.unwrap().pki);
    let before = sealed_in(&store).await;
    here.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    here.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
    let later = root(&here);
    drop(here);

    let store = restored(&before).await;
    assert_eq!(root(&first.open(&store, &one).await.unwrap().pki), later);
    assert_ne!(sealed_in(&store).await, before, "it has taken the place of the older one");
    // One that has slept through the change follows, and one that was never there.
    assert_eq!(root(&second.open(&store, &other).await.unwrap().pki), later);
    assert_eq!(root(&third.open(&store, &new).await.unwrap().pki), later);
}

#[tokio::test]
async fn an_older_copy_that_is_put_back_while_all_run_is_replaced_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let (config, sharing) = replica(directory.path(), "one");
    let store = Arc::new(MemoryStore::new());
    let here = sharing.open(&*store, &config).await.unwrap().pki;
    let before = sealed_in(&store).await;
    let bench = Bench::start(&store).await;
    let revision = sharing.begin(&bench.clerk, &here).await.unwrap().unwrap();
    here.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    sharing.share(&bench.clerk, &here, revision).await.unwrap();
    let (_, revision) = sharing.shared(&bench.clerk).unwrap().unwrap();
    bench.clerk.submit(Command::ShareAuthority { sealed: before, after: revision }).await.unwrap();
    sharing.meet(&bench.clerk, &here).await.unwrap();
    assert_eq!(here.authority().phase(), Phase::Prepared);
    let (shared, _) = sharing.shared(&bench.clerk).unwrap().unwrap();
    assert_eq!(shared, here.shared().unwrap());
}

#[tokio::test]
async fn the_ca_of_another_life_is_neither_overwritten_nor_shared_before_somebody_decides() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
    let shared = root(&first.open(&store, &one).await.unwrap().pki);
    let own = open(&other).unwrap();
    fs::remove_file(own.unproven_note()).unwrap();
    let error = second.open(&store, &other).await.unwrap_err().to_string();
    assert!(error.contains("other/pki has the CA of another") && error.contains("store share-ca"), "{error}");
    assert_eq!(open(&other).unwrap().authority().trust_pem(), root(&own));
    assert_eq!(root(&first.open(&store, &one).await.unwrap().pki), shared);

    second.replace(&store, &other).await.unwrap();
    assert_eq!(root(&second.open(&store, &other).await.unwrap().pki), root(&own));
    fs::remove_dir_all(one.pki_dir()).unwrap();
    assert_eq!(root(&first.open(&store, &one).await.unwrap().pki), root(&own));
}

/// As a version leaves it that did not count: its record may be later than any directory.
#[tokio::test]
async fn an_old_directory_does_not_come_back_over_what_was_shared_without_a_count() {
    let directory = tempfile::tempdir().unwrap();
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
    let store = MemoryStore::new();
    let here = first.open(&store, &one).await.unwrap().pki;
    drop(second.open(&store, &other).await.unwrap().pki);
    here.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    here.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
    let later = root(&here);
    let mut uncounted = here.shared().unwrap();
    uncounted.remove("changes");
    let store = restored(&first.0.seal.close(&uncounted)).await;
    assert_eq!(root(&second.open(&store, &other).await.unwrap().pki), later);
    // One that has the same counts it.
    assert_eq!(root(&first.open(&store, &one).await.unwrap().pki), later);
    let counted = first.0.seal.open(&sealed_in(&store).await).unwrap();
    assert_eq!(counted, here.shared().unwrap());
}

/// What was shared was sealed with a file that is lost, and another directory has got further than the one that is to
/// be everybody's.
#[tokio::test]
async fn what_an_operator_has_put_first_is_first_though_what_it_replaces_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
    let kept = root(&first.open(&store, &one).await.unwrap().pki);
    let changed = second.open(&store, &other).await.unwrap().pki;
    for step in [Step::Prepare, Step::Issue, Step::Retire] {
        changed.rotate(step, LIFE, SystemTime::now()).unwrap();
    }
    let [(one, first), (other, second)] =
        ["one", "other"].map(|name| replica_sealing(directory.path(), name, "another seal", 8));
    first.replace(&store, &one).await.unwrap();
    assert_eq!(root(&second.open(&store, &other).await.unwrap().pki), kept);
}

/// Also one that an operator goes back to.
#[tokio::test]
async fn what_an_operator_has_put_first_is_taken_up_by_those_whose_copy_was_changed_more_often() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
    let kept = root(&first.open(&store, &one).await.unwrap().pki);
    let changed = second.open(&store, &other).await.unwrap().pki;
    changed.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    changed.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
    assert_ne!(root(&second.open(&store, &other).await.unwrap().pki), kept);
    first.replace(&store, &one).await.unwrap();
    assert_eq!(root(&second.open(&store, &other).await.unwrap().pki), kept);
}

#[tokio::test]
async fn a_ca_from_elsewhere_that_one_has_got_is_the_next_one_of_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let [(first, here), (second, there)] = two(directory.path(), &store).await;
    let bench = Bench::start(&store).await;
    let next = put_next(&here, &directory.path().join("elsewhere"));
    here.refresh(SystemTime::now()).unwrap();
    first.meet(&bench.clerk, &here).await.unwrap();
    second.meet(&bench.clerk, &there).await.unwrap();
    assert_eq!((there.authority().phase(), root(&there)), (Phase::Prepared, root(&here)));

    // It is rotated to wherever somebody asks for it.
    let before = second.begin(&bench.clerk, &there).await.unwrap().unwrap();
    there.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
    second.share(&bench.clerk, &there, before).await.unwrap();
    first.meet(&bench.clerk, &here).await.unwrap();
    assert_eq!((here.authority().phase(), here.authority().certificate_pem()), (Phase::Issuing, &*next));
}

#[tokio::test]
async fn a_next_ca_is_taken_away_again_for_all_and_one_that_was_just_put_there_counts() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let [(first, here), (second, there)] = two(directory.path(), &store).await;
    let bench = Bench::start(&store).await;
    // Nobody has looked at it before the step is asked for.
    put_next(&here, &directory.path().join("elsewhere"));
    first.begin(&bench.clerk, &here).await.unwrap();
    assert_eq!(here.authority().phase(), Phase::Prepared);
    second.meet(&bench.clerk, &there).await.unwrap();
    assert_eq!(there.authority().phase(), Phase::Prepared);

    fs::remove_dir_all(there.directory().join("next")).unwrap();
    there.refresh(SystemTime::now()).unwrap();
    second.meet(&bench.clerk, &there).await.unwrap();
    first.meet(&bench.clerk, &here).await.unwrap();
    assert_eq!((here.authority().phase(), root(&here)), (Phase::Steady, root(&there)));
}

#[tokio::test]
async fn a_replica_that_runs_takes_up_what_others_share_and_shares_what_is_put_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let [(first, here), (second, there)] = two(directory.path(), &store).await;
    let (here, there) = (Arc::new(here), Arc::new(there));
    let bench = Bench::start(&store).await;
    let running = [(first, &here), (second, &there)].map(|(sharing, pki)| {
        let knocks = Knocks::noted(pki.unproven_note());
        tokio::spawn(sharing.run(bench.clerk.clone(), Arc::clone(pki), knocks))
    });
    put_next(&here, &directory.path().join("elsewhere"));
    let mut changes = there.changes();
    here.refresh(SystemTime::now()).unwrap();
    let generation = here.authority().generation();
    let taken = changes.wait_for(|taken| *taken == generation);
    tokio::time::timeout(Duration::from_secs(30), taken).await.expect("it is taken up").unwrap();
    assert_eq!(there.authority().phase(), Phase::Prepared);
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn knocks_count_at_all_until_one_has_seen_the_ca_prove_itself() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let [(first, here), (second, there)] = two(directory.path(), &store).await;
    let knocks = [&here, &there].map(|pki| Knocks::noted(pki.unproven_note()));
    assert!(knocks.iter().all(Knocks::is_counting));
    let bench = Bench::start(&store).await;
    first.follow(&bench.clerk, &here, &knocks[0]).await.unwrap();
    second.follow(&bench.clerk, &there, &knocks[1]).await.unwrap();
    assert!(knocks.iter().all(Knocks::is_counting));

    knocks[0].end();
    first.follow(&bench.clerk, &here, &knocks[0]).await.unwrap();
    second.follow(&bench.clerk, &there, &knocks[1]).await.unwrap();
    first.follow(&bench.clerk, &here, &knocks[0]).await.unwrap();
    assert!(!knocks.iter().any(Knocks::is_counting));
    assert!(!here.unproven_note().exists() && !there.unproven_note().exists());
    let (new, third) = replica(directory.path(), "new");
    assert!(
        !third.open(&*store, &new).await.unwrap().pki.unproven_note().exists(),
        "nor at one that comes later"
    );
}
