use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::clerk::testing::{Bench, feed_options, name};
use crate::ledger::{Defaults, LeaseState};
use crate::store::MemoryStore;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Two clocks that go together until they are told otherwise.
struct Time {
    now: Now,
}

impl Time {
    fn new() -> Self {
        Self { now: Now { wall: SystemTime::UNIX_EPOCH + DAY * 20_000, monotonic: Instant::now() } }
    }

    fn pass(&mut self, duration: Duration) {
        self.now.wall += duration;
        self.now.monotonic += duration;
    }

    /// Looks every minute while time passes; the last look is at the end.
    fn watch(&mut self, expiry: &mut Expiry, duration: Duration, lease: &Expiring) -> Due {
        let mut due = expiry.look(self.now, [lease.clone()]);
        let minute = Duration::from_secs(60);
        for _ in 0..duration.as_secs() / 60 {
            assert_eq!(due.expire, [], "at {:?} of {duration:?}", self.now.wall);
            self.pass(minute);
            due = expiry.look(self.now, [lease.clone()]);
        }
        due
    }
}

fn lease(expires: SystemTime, ttl: Duration) -> Expiring {
    let name = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
    Expiring { name, expires, revision: 7, ttl, streams: false }
}

#[test]
fn a_lease_that_was_followed_long_enough_ends_when_its_time_on_disk_has_passed() {
    let (mut time, mut expiry) = (Time::new(), Expiry::default());
    let lease = lease(time.now.wall + DAY, DAY);
    let due = time.watch(&mut expiry, DAY, &lease);
    assert_eq!(due.expire, [(lease.name, 7)]);
}

#[test]
fn after_a_restart_an_overdue_lease_has_the_grace_to_come_back() {
    for (ttl, grace) in [(DAY, HOUR), (HOUR / 4, HOUR / 4)] {
        let (mut time, mut expiry) = (Time::new(), Expiry::default());
        let lease = lease(time.now.wall - DAY, ttl);
        let due = time.watch(&mut expiry, grace, &lease);
        assert_eq!(due.expire.len(), 1, "{ttl:?}");
    }
}

#[test]
fn a_change_of_a_lease_begins_its_grace_anew() {
    let (mut time, mut expiry) = (Time::new(), Expiry::default());
    let mut lease = lease(time.now.wall - DAY, DAY);
    time.watch(&mut expiry, HOUR - Duration::from_secs(60), &lease);
    lease.revision = 8;
    let due = time.watch(&mut expiry, HOUR, &lease);
    assert_eq!(due.expire, [(lease.name, 8)]);
}

#[test]
fn a_clock_that_is_set_forward_ends_nothing_before_the_grace() {
    let (mut time, mut expiry) = (Time::new(), Expiry::default());
    let lease = lease(time.now.wall + DAY, DAY);
    time.watch(&mut expiry, HOUR * 5, &lease);
    time.now.wall += DAY * 365;
    let due = time.watch(&mut expiry, HOUR, &lease);
    assert_eq!(due.expire.len(), 1);
}

#[test]
fn a_clock_that_is_set_back_ends_nothing_at_all() {
    let (mut time, mut expiry) = (Time::new(), Expiry::default());
    let lease = lease(time.now.wall + DAY, DAY);
    time.watch(&mut expiry, HOUR * 5, &lease);
    time.now.wall -= DAY * 365;
    assert_eq!(time.watch(&mut expiry, DAY * 2, &lease).expire, []);
}

#[test]
fn a_node_that_streams_is_renewed_and_never_ended() {
    let (mut time, mut expiry) = (Time::new(), Expiry::default());
    let mut lease = lease(time.now.wall + DAY * 5 / 4, DAY);
    lease.streams = true;
    let mut renewed_after = None;
    for minute in 0..60 * 48 {
        let due = expiry.look(time.now, [lease.clone()]);
        assert_eq!(due.expire, []);
        if !due.renew.is_empty() && renewed_after.is_none() {
            renewed_after = Some(Duration::from_secs(60 * minute));
        }
        time.pass(Duration::from_secs(60));
    }
    let after = renewed_after.unwrap();
    assert!(after <= DAY / 3 + Duration::from_secs(60) && after >= DAY / 4, "{after:?}");
}

#[test]
fn nodes_that_joined_together_renew_apart() {
    let time = Time::new();
    let wants_at = |node: usize| {
        let mut lease = lease(time.now.wall + DAY * 5 / 4, DAY);
        lease.name.node = format!("node-{node}").parse().unwrap();
        (0..60 * 24).find(|minute| wants_renewal(&lease, time.now.wall + Duration::from_secs(60 * minute)))
    };
    let mut minutes: Vec<_> = (0..100).map(wants_at).collect();
    minutes.sort_unstable();
    minutes.dedup();
    assert!(minutes.len() > 40, "{minutes:?}");
}

#[test]
fn no_renewal_is_wanted_that_would_change_nothing() {
    let time = Time::new();
    for node in 0..1000 {
        let mut lease = lease(time.now.wall + DAY, DAY);
        lease.name.node = format!("node-{node}").parse().unwrap();
        // A promise of a whole life from now is on disk already.
        assert!(!wants_renewal(&lease, time.now.wall), "{}", lease.name);
        assert!(wants_renewal(&lease, time.now.wall + DAY / 12), "{}", lease.name);
    }
}

proptest! {
    /// Whatever the wall clock does: without the grace since the start and the last change nothing ends.
    #[test]
    fn nothing_ends_within_the_grace(
        steps in proptest::collection::vec((0_u64..1800, -100_000_i64..100_000, any::<bool>()), 1..60),
    ) {
        let (mut time, mut expiry) = (Time::new(), Expiry::default());
        let mut lease = lease(time.now.wall + HOUR, DAY);
        let start = time.now.monotonic;
        let mut changed = start;
        for (pass, jump, change) in steps {
            time.pass(Duration::from_secs(pass));
            if jump % 3 == 0 {
                let by = Duration::from_secs(jump.unsigned_abs());
                time.now.wall = if jump > 0 { time.now.wall + by } else { time.now.wall - by };
            }
            if change {
                lease.revision += 1;
                changed = time.now.monotonic;
            }
            let due = expiry.look(time.now, [lease.clone()]);
            if !due.expire.is_empty() {
                prop_assert!(time.now.monotonic - changed >= HOUR);
                prop_assert!(lease.expires <= time.now.wall);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_nodes_lease_ends_and_its_peers_are_told_while_a_streaming_nodes_is_renewed() {
    use crate::watch::tests::client::{Client, Set, node};
    use crate::watch::{Viewer, WatchOpen};

    let ttl = Duration::from_secs(60);
    let defaults = Defaults { lease_ttl: ttl, ..Defaults::default() };
    let bench = Bench::start_with(&Arc::new(MemoryStore::new()), defaults, feed_options()).await;
    bench.begin(1).await;
    bench.create("blue").await;
    for (n, node) in ["silent", "streams"].into_iter().enumerate() {
        bench.acquire(node, n as u16 + 1).await;
    }
    let watch = |viewer: Viewer| {
        let open = WatchOpen { network: "blue".parse().unwrap(), token: bytes::Bytes::new(), viewer };
        Client::new(bench.feeds.watch(&bench.streams, open).unwrap(), Set::default())
    };
    let _streams = watch(node("streams"));
    let mut observer = watch(Viewer::Observer);
    observer.read().await;
    assert_eq!(observer.set.peers.len(), 2);

    let period = Duration::from_secs(1);
    let (clerk, streams, now) = (bench.clerk.clone(), bench.streams.clone(), bench.time.clock());
    let running = tokio::spawn(run(clerk, streams, ttl, now, period, Replicas(None)));
    for _ in 0..200 {
        bench.time.pass(period);
        tokio::time::sleep(period).await;
    }
    observer.read().await;
    assert_eq!(observer.set.peers.keys().collect::<Vec<_>>(), ["streams"]);
    let lease = |node: &str| bench.clerk.read(|ledger| ledger.lease(&name(node))).unwrap();
    assert!(matches!(lease("silent").state, LeaseState::Held { .. }));
    assert!(lease("streams").expires.unwrap() > (bench.time.clock())());
    running.abort();
}

/// Other replicas, if there are any, and the leases whose nodes they have.
struct Replicas(Option<Arc<Mutex<HashSet<LeaseName>>>>);

impl Others for Replicas {
    fn is_none(&self) -> bool {
        self.0.is_none()
    }

    async fn streaming(&self) -> Result<HashSet<LeaseName>, BTreeSet<String>> {
        Ok(self.0.iter().flat_map(|leases| leases.lock().unwrap().clone()).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_end_while_another_replica_has_its_node() {
    let ttl = Duration::from_secs(60);
    let defaults = Defaults { lease_ttl: ttl, ..Defaults::default() };
    let bench = Bench::start_with(&Arc::new(MemoryStore::new()), defaults, feed_options()).await;
    bench.begin(1).await;
    bench.create("blue").await;
    bench.acquire("there", 1).await;
    bench.acquire("silent", 2).await;

    let there = Arc::new(Mutex::new(HashSet::from([name("there")])));
    let period = Duration::from_secs(1);
    let (clerk, streams, now) = (bench.clerk.clone(), bench.streams.clone(), bench.time.clock());
    let replicas = Replicas(Some(Arc::clone(&there)));
    let running = tokio::spawn(run(clerk, streams, ttl, now, period, replicas));
    let pass = async |seconds: u32| {
        for _ in 0..seconds {
            bench.time.pass(period);
            tokio::time::sleep(period).await;
        }
    };
    let is_held = |node: &str| {
        let lease = bench.clerk.read(|ledger| ledger.lease(&name(node))).unwrap();
        matches!(lease.state, LeaseState::Held { .. })
    };
    pass(300).await;
    assert!(is_held("silent") && !is_held("there"));
    there.lock().unwrap().clear();
    pass(120).await;
    assert!(is_held("there"));
    running.abort();
}
