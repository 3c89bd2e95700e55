//! A control plane without its services, on a store in memory, and a store that fails on demand.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use loden_proto::model::{Backend, Endpoint, InstanceId, LeaseName, Network, NetworkSpec, Pool, Subnets};
use tokio::sync::watch;

use super::{Answer, Clerk, ClerkHandle, ClerkOptions, Settling, SubmitError, WallClock};
use crate::feed::{FeedOptions, Feeds, TokenKey};
use crate::knocks::Knocks;
use crate::ledger::{Command, Defaults, Lease};
use crate::store::{
    Batch, Cause, Change, CommitError, Guard, Health, Loaded, MemoryStore, Others, Revision, Store,
    StoreError,
};
use crate::watch::Streams;

/// Everything between the services and the store.
pub(crate) struct Bench {
    pub(crate) clerk: ClerkHandle,
    pub(crate) feeds: Feeds,
    pub(crate) streams: Streams,
    pub(crate) settling: Settling,
    pub(crate) knocks: Knocks,
    pub(crate) time: Time,
    _tasks: Clerk,
}

/// A time of day that tests set.
#[derive(Clone)]
pub(crate) struct Time(Arc<Mutex<SystemTime>>);

impl Time {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))))
    }

    pub(crate) fn pass(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }

    pub(crate) fn clock(&self) -> WallClock {
        let time = self.clone();
        Arc::new(move || *time.0.lock().unwrap())
    }
}

/// Options under which fan-outs take no time that can be measured.
pub(crate) fn feed_options() -> FeedOptions {
    FeedOptions { cpu_time: || Duration::ZERO, ..FeedOptions::default() }
}

impl Bench {
    pub(crate) async fn start<S: Store>(store: &Arc<S>) -> Self {
        Self::start_with(store, Defaults::default(), feed_options()).await
    }

    pub(crate) async fn start_with<S: Store>(
        store: &Arc<S>,
        defaults: Defaults,
        options: FeedOptions,
    ) -> Self {
        Self::start_listening(store, defaults, options, Knocks::default()).await
    }

    pub(crate) async fn start_listening<S: Store>(
        store: &Arc<S>,
        defaults: Defaults,
        options: FeedOptions,
        knocks: Knocks,
    ) -> Self {
        let feeds = Feeds::new(TokenKey::new(b"key of the tests"), knocks.clone(), options);
        let (streams, settling, time) = (Streams::default(), Settling::default(), Time::new());
        let options = ClerkOptions {
            defaults,
            streaming: Arc::new(streams.clone()),
            settling: settling.clone(),
            knocks: knocks.clone(),
            now: time.clock(),
        };
        let (tasks, clerk) = Clerk::start(Arc::clone(store), feeds.clone(), options).await.unwrap();
        Self { clerk, feeds, streams, settling, knocks, time, _tasks: tasks }
    }

    /// Begins the store's first life.
    pub(crate) async fn begin(&self, id: u128) {
        let command = Command::BeginIncarnation { id, predecessor: None, adopt_until: None };
        self.clerk.submit(command).await.unwrap();
    }

    pub(crate) async fn create(&self, id: &str) -> Network {
        match self.clerk.submit(create(id)).await.unwrap() {
            Answer::Network(network) => network,
            answer => panic!("{answer:?}"),
        }
    }

    pub(crate) async fn acquire(&self, node: &str, n: u16) -> Lease {
        self.try_acquire(node, n, None).await.unwrap()
    }

    pub(crate) async fn try_acquire(
        &self,
        node: &str,
        n: u16,
        claim: Option<Subnets>,
    ) -> Result<Lease, SubmitError> {
        match self.clerk.submit(acquire(node, n, claim)).await? {
            Answer::Lease(lease, _) => Ok(lease),
            answer => panic!("{answer:?}"),
        }
    }

    pub(crate) async fn release(&self, node: &str) {
        self.clerk.submit(Command::ReleaseLease { name: name(node), epoch: None }).await.unwrap();
    }
}

/// A lease in the network `blue`.
pub(crate) fn name(node: &str) -> LeaseName {
    LeaseName { network: "blue".parse().unwrap(), node: node.parse().unwrap() }
}

pub(crate) fn create(id: &str) -> Command {
    let pool = if id == "blue" { "10.0.0.0/8" } else { "172.16.0.0/12" };
    let spec = NetworkSpec {
        id: id.parse().unwrap(),
        pools: vec![Pool::new(pool.parse().unwrap(), Some(24)).unwrap()],
        vni: None,
        mtu: None,
        backend: Backend::Alloc,
        lease_ttl: None,
        masquerade: None,
    };
    Command::CreateNetwork { spec, request_id: None }
}

/// `n` makes the underlay address.
pub(crate) fn acquire(node: &str, n: u16, claim: Option<Subnets>) -> Command {
    let [high, low] = n.to_be_bytes();
    let endpoint = Endpoint { v4: Some(Ipv4Addr::new(192, 168, high, low)), ..Endpoint::default() };
    Command::AcquireLease {
        name: name(node),
        instance: InstanceId(1),
        claim,
        endpoint,
        underlay: Vec::new(),
        identity_epoch: 0,
    }
}

/// A store in memory that does to commits what it was told to.
pub(crate) struct Faulty {
    pub(crate) inner: Arc<MemoryStore>,
    faults: Mutex<VecDeque<Fault>>,
    is_shared: bool,
}

/// What becomes of one commit.
pub(crate) enum Fault {
    /// It happens.
    None,
    /// It does not happen.
    Fails(CommitError),
    /// It waits for the bell, then it does not happen.
    FailsLater(watch::Receiver<bool>, CommitError),
    /// It happens at once, and is answered after the bell.
    AnswersLater(watch::Receiver<bool>),
}

impl Faulty {
    pub(crate) fn new(faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        let faults = Mutex::new(faults.into_iter().collect());
        Arc::new(Self { inner: Arc::new(MemoryStore::new()), faults, is_shared: false })
    }

    /// One of several that commit to a store, and hear of what others commit when they are let.
    pub(crate) fn sharing(inner: &Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), faults: Mutex::default(), is_shared: true })
    }

    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }
}

async fn rung(mut bell: watch::Receiver<bool>) {
    bell.wait_for(|rung| *rung).await.unwrap();
}

impl Store for Faulty {
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send {
        self.inner.load()
    }

    fn commit(
        &self,
        changes: Vec<Change>,
        guards: Vec<Guard>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + use<> {
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let commit: BoxFuture<'static, _> = match fault {
            Fault::None => self.inner.commit(changes, guards).boxed(),
            Fault::Fails(error) => async { Err(error) }.boxed(),
            Fault::FailsLater(bell, error) => async {
                rung(bell).await;
                Err(error)
            }
            .boxed(),
            Fault::AnswersLater(bell) => {
                let commit = self.inner.commit(changes, guards);
                async {
                    let outcome = commit.await;
                    rung(bell).await;
                    outcome
                }
                .boxed()
            }
        };
        commit
    }

    fn follow(&self, after: Revision) -> impl Stream<Item = Result<Batch, StoreError>> + Send + use<> {
        self.inner.follow(after)
    }

    fn newest(&self) -> impl Future<Output = Result<Revision, Cause>> + Send + 'static + use<> {
        self.inner.newest()
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn announce(&self, note: Bytes) {
        self.inner.announce(note);
    }

    fn others(&self) -> watch::Receiver<Others> {
        self.inner.others()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }
}
