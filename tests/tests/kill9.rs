//! `kill -9` of the real control plane in the middle of a storm of writes, two hundred times over.
//!
//! ```text
//!  start ─▶ compare with the witness ─▶ storm: 64 leases and 4 networks at once ─▶ kill -9 ─▶ again
//!             ▲                            │ acknowledged, or still open
//!             └────────── Witness ◀────────┘
//! ```
//!
//! An acknowledged write must be there after the next start. One that was still open may be there or not,
//! but nothing in between.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::future::join_all;
use ipnet::IpNet;
use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_tests::client::{self, Follower, Identities, Seen};
use loden_tests::deployment::Deployment;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

const ROUNDS: usize = 200;
/// Repeats the choices of an earlier run, though not its timing.
const SEED: &str = "LODEN_KILL9_SEED";
/// Every node has a lease in every one of these: 64 in all.
const NETWORKS: u16 = 8;
const NODES: u16 = 8;
/// Networks that come and go.
const PASSING: u16 = 4;
/// How long after the first acknowledgement the kill comes, in µs.
const STORM: std::ops::Range<u64> = 5_000..60_000;
const ANSWER: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_lose_nothing_that_was_acknowledged_and_give_nothing_twice() {
    let seed = env::var(SEED).ok().map(|seed| seed.parse().unwrap()).unwrap_or_else(rand::random);
    match kill_again_and_again(seed).await {
        Ok(figures) => println!("{figures}"),
        Err(error) => panic!("seed {seed}: {error:#}"),
    }
}

async fn kill_again_and_again(seed: u64) -> anyhow::Result<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    // So few VNIs, and so short a cooldown, that what is given back is given out again at once.
    let vnis = format!("1-{}", NETWORKS + PASSING);
    let flags = ["--settle", "0s", "--cooldown", "1ms", "--vni-range", &vnis];
    let mut deployment = Deployment::start("kill9", &flags).await?;
    let identities = Identities::of(&deployment.control, &deployment.lab.directory().join("identities"))?;
    let actors = Actors {
        admin: identities.admin("storm")?,
        nodes: (0..NODES).map(|node| identities.node(&node_name(node))).collect::<anyhow::Result<_>>()?,
    };
    let admin = deployment.control.channel(&actors.admin).await?;
    let mut witness = Witness::default();
    for network in 0..NETWORKS {
        // Seven slots for eight nodes: one always waits for what another gives back.
        let made = client::create_network(&admin, &lasting(network), &pool(network), 27).await?;
        witness.networks.insert(lasting(network), Item::sure(made));
    }
    witness.deletions = (0..PASSING).map(|network| (passing(network), Arc::default())).collect();
    let mut watcher = Watcher::begin(&admin).await?;
    let (mut starts, mut figures) = (Vec::new(), Figures::default());
    for round in 0..ROUNDS {
        let told = format!("round {round}");
        let moment = Duration::from_micros(rng.random_range(STORM));
        let watching = tokio::spawn(watcher.read_on());
        let storm =
            storm(&deployment, &actors, &witness, rng.random()).await.with_context(|| told.clone())?;
        tokio::time::sleep(moment).await;
        deployment.control.kill9().await?;
        watcher = watching.await?;
        figures.add(storm.end(&mut witness).await.with_context(|| told.clone())?);

        let begin = Instant::now();
        deployment.control.start().await.with_context(|| told.clone())?;
        starts.push(begin.elapsed());
        let admin = deployment.control.channel(&actors.admin).await?;
        witness.compare(&admin).await.with_context(|| format!("after {told}"))?;
        watcher.compare(&admin, &witness).await.with_context(|| format!("the watch after {told}"))?;
    }
    starts.sort();
    let Figures { acknowledged, refused, open } = figures;
    ensure!(open >= ROUNDS, "only {open} calls were open at {ROUNDS} kills: this proves nothing");
    ensure!(acknowledged >= ROUNDS, "only {acknowledged} acknowledgements: this proves nothing");
    Ok(format!(
        "{ROUNDS} kills: {acknowledged} writes acknowledged, none lost; {refused} refused; {open} open at a \
         kill; start {:?} (median), {:?} (longest)",
        starts[starts.len() / 2],
        starts[starts.len() - 1],
    ))
}

fn node_name(node: u16) -> String {
    format!("node-{node}")
}

fn lasting(network: u16) -> String {
    format!("lasting-{network}")
}

fn passing(network: u16) -> String {
    format!("passing-{network}")
}

fn pool(network: u16) -> String {
    format!("10.1.{network}.0/24")
}

/// Identities of everybody in a storm.
struct Actors {
    admin: PathBuf,
    nodes: Vec<PathBuf>,
}

/// What is known of one lease or network from outside.
#[derive(Clone, Debug)]
struct Item<T, O> {
    /// As of the last acknowledgement or look; `None`: it does not exist.
    known: Option<T>,
    /// A call that nobody has answered.
    open: Option<O>,
    /// A lease: how often its network had been deleted before `known` was asked for. A network: whether its
    /// own deletion has begun.
    deletions: u64,
}

impl<T, O> Item<T, O> {
    fn sure(known: T) -> Self {
        Self { known: Some(known), ..Self::default() }
    }
}

impl<T, O> Default for Item<T, O> {
    fn default() -> Self {
        Self { known: None, open: None, deletions: 0 }
    }
}

/// What can be done to a lease.
#[derive(Clone, Copy, Debug)]
enum LeaseCall {
    Acquire { instance: u128 },
    Release,
}

/// What can be done to a network.
#[derive(Clone, Copy, Debug)]
enum NetworkCall {
    Create,
    Delete,
}

/// How often a network's deletion has been asked for, and how often it was done before anything that begins
/// now.
#[derive(Debug, Default)]
struct Deletions {
    asked: AtomicU64,
    done: AtomicU64,
}

impl Deletions {
    fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Nothing that was asked for is still to be done.
    fn settle(&self) {
        self.done.store(self.asked(), Ordering::SeqCst);
    }
}

type LeaseItem = Item<v1::Lease, LeaseCall>;
type NetworkItem = Item<v1::Network, NetworkCall>;

/// What the outside world was told.
#[derive(Debug, Default)]
struct Witness {
    networks: BTreeMap<String, NetworkItem>,
    /// By network and node.
    leases: BTreeMap<(String, String), LeaseItem>,
    /// Of each passing network.
    deletions: BTreeMap<String, Arc<Deletions>>,
}

impl Witness {
    /// Compares what the server holds with what it has acknowledged; from then on it is known to hold that.
    async fn compare(&mut self, admin: &Channel) -> anyhow::Result<()> {
        let (networks, leases) = (client::networks(admin).await?, client::leases(admin).await?);
        nothing_twice(&networks, &leases)?;
        let mut leases: BTreeMap<_, _> = leases
            .into_iter()
            .map(|lease| {
                let (network, node) = client::parts(&lease.name)?;
                Ok(((network.to_owned(), node.to_owned()), lease))
            })
            .collect::<anyhow::Result<_>>()?;
        for (name, item) in &mut self.leases {
            let found = leases.remove(name);
            let deletions = self.deletions.get(&name.0).map_or(0, |deletions| deletions.asked());
            if deletions > item.deletions && item.known.as_ref() != found.as_ref() {
                // A lease goes with its network, and may come again with it.
                item.known = None;
            }
            if found.is_some() || item.known.is_some() {
                check_lease(item, found.as_ref()).with_context(|| format!("{name:?}"))?;
            }
            *item = Item { known: found, open: None, deletions };
        }
        ensure!(leases.is_empty(), "nobody has asked for {leases:?}");
        let mut networks: BTreeMap<_, _> = networks
            .into_iter()
            .map(|network| (network.name.trim_start_matches("networks/").to_owned(), network))
            .collect();
        for (name, item) in &mut self.networks {
            let found = networks.remove(name);
            check_network(item, found.as_ref()).with_context(|| name.clone())?;
            // A deletion that has begun is ended by the server itself.
            let going = found.is_some() && matches!(item.open, Some(NetworkCall::Delete));
            if let Some(deletions) = self.deletions.get(name) {
                deletions.settle();
                if going {
                    deletions.ask();
                }
            }
            *item = Item { known: found, open: None, deletions: u64::from(going) };
        }
        ensure!(networks.is_empty(), "nobody has asked for {networks:?}");
        Ok(())
    }
}

fn check_lease(item: &LeaseItem, found: Option<&v1::Lease>) -> anyhow::Result<()> {
    if item.known.as_ref() == found {
        return Ok(());
    }
    let follows = match (item.open, found) {
        (Some(LeaseCall::Release), None) => true,
        (Some(LeaseCall::Acquire { instance }), Some(found)) => {
            let keeps = item.known.as_ref().is_none_or(|known| {
                known.subnets == found.subnets
                    && known.create_time == found.create_time
                    && known.epoch < found.epoch
            });
            keeps && found.instance_id == format!("{instance:032x}")
        }
        _ => false,
    };
    ensure!(follows, "it was {:?}, open was {:?}, now it is {found:?}", item.known, item.open);
    Ok(())
}

fn check_network(item: &NetworkItem, found: Option<&v1::Network>) -> anyhow::Result<()> {
    let follows = match (item.open, found) {
        // A deletion marks the network first, which changes its revision.
        (Some(NetworkCall::Delete), Some(found)) => item.known.as_ref().is_some_and(|known| {
            (&known.name, known.vni, &known.pools) == (&found.name, found.vni, &found.pools)
        }),
        (Some(NetworkCall::Delete), None) | (Some(NetworkCall::Create), Some(_)) => true,
        _ => item.known.as_ref() == found,
    };
    ensure!(follows, "it was {:?}, open was {:?}, now it is {found:?}", item.known, item.open);
    Ok(())
}

/// No subnet, no VNI and no address space belongs to two.
fn nothing_twice(networks: &[v1::Network], leases: &[v1::Lease]) -> anyhow::Result<()> {
    let mut vnis = BTreeMap::new();
    let mut pools: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    for network in networks {
        let vni = network.vni.with_context(|| format!("{} has no VNI", network.name))?;
        ensure!((1..=u32::from(NETWORKS + PASSING)).contains(&vni), "{} has VNI {vni}", network.name);
        if let Some(other) = vnis.insert(vni, &network.name) {
            bail!("{other} and {} both have VNI {vni}", network.name);
        }
        let cidrs = network.pools.iter().map(|pool| pool.cidr.parse()).collect::<Result<_, _>>()?;
        pools.insert(network.name.trim_start_matches("networks/"), cidrs);
    }
    let mut subnets: BTreeMap<IpNet, &str> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for lease in leases {
        let (network, _) = client::parts(&lease.name)?;
        ensure!(names.insert(&lease.name), "{} is listed twice", lease.name);
        ensure!(lease.subnets.len() == 1, "{} has {:?}", lease.name, lease.subnets);
        let subnet: IpNet = lease.subnets[0].parse()?;
        let pools = pools.get(network).with_context(|| format!("{} is in no network", lease.name))?;
        ensure!(pools.iter().any(|pool| pool.contains(&subnet)), "{} has {subnet}", lease.name);
        let before = subnets.range(..=subnet).next_back().filter(|(other, _)| other.contains(&subnet));
        let after = subnets.range(subnet..).next().filter(|(other, _)| subnet.contains(*other));
        if let Some((other, owner)) = before.or(after) {
            bail!("{owner} has {other} and {} has {subnet}", lease.name);
        }
        subnets.insert(subnet, &lease.name);
    }
    Ok(())
}

/// How many calls came to what.
#[derive(Debug, Default)]
struct Figures {
    acknowledged: usize,
    refused: usize,
    open: usize,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.open += other.open;
    }
}

/// What one caller has done and left open.
struct Account<K, I> {
    key: K,
    item: I,
    figures: Figures,
}

/// A storm that runs until the server is gone.
struct Storm {
    leases: JoinSet<anyhow::Result<Account<(String, String), LeaseItem>>>,
    networks: JoinSet<anyhow::Result<Account<String, NetworkItem>>>,
}

/// Begins a storm; it is under way when this returns.
async fn storm(
    deployment: &Deployment,
    actors: &Actors,
    witness: &Witness,
    seed: u64,
) -> anyhow::Result<Storm> {
    let mut rng = StdRng::seed_from_u64(seed);
    let channels = join_all(actors.nodes.iter().map(|identity| deployment.control.channel(identity)));
    let (admin, nodes) = tokio::join!(deployment.control.channel(&actors.admin), channels);
    let (admin, nodes) = (admin?, nodes.into_iter().collect::<anyhow::Result<Vec<_>>>()?);
    let (begun, mut begins) = watch::channel(());
    let mut storm = Storm { leases: JoinSet::new(), networks: JoinSet::new() };
    let lease_networks = (0..NETWORKS).map(lasting).collect::<Vec<_>>();
    let deletions = |network: &str| witness.deletions.get(network).cloned().unwrap_or_default();
    for (number, channel) in (0..NODES).zip(&nodes) {
        // Each node's last lane is in a network that comes and goes.
        let passing = passing(number % PASSING);
        for network in lease_networks.iter().chain([&passing]) {
            let key = (network.clone(), node_name(number));
            let item = witness.leases.get(&key).cloned().unwrap_or_default();
            let lane = LeaseLane {
                deletions: deletions(network),
                key,
                number,
                client: LeaseServiceClient::new(channel.clone()),
                channel: channel.clone(),
                rng: StdRng::seed_from_u64(rng.random()),
                begun: begun.clone(),
            };
            storm.leases.spawn(lane.run(item));
        }
    }
    for number in 0..PASSING {
        let key = passing(number);
        let item = witness.networks.get(&key).cloned().unwrap_or_default();
        storm.networks.spawn(network_lane((key.clone(), deletions(&key)), number, admin.clone(), item));
    }
    let first = tokio::time::timeout(ANSWER, begins.changed()).await;
    first.map_err(|_| anyhow!("nothing was acknowledged within {ANSWER:?}"))??;
    Ok(storm)
}

impl Storm {
    /// Waits until every caller has noticed that the server is gone.
    async fn end(mut self, witness: &mut Witness) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        while let Some(account) = self.leases.join_next().await {
            let Account { key, item, figures: one } = account??;
            witness.leases.insert(key, item);
            figures.add(one);
        }
        while let Some(account) = self.networks.join_next().await {
            let Account { key, item, figures: one } = account??;
            witness.networks.insert(key, item);
            figures.add(one);
        }
        Ok(figures)
    }
}

/// One node in one network: acquires, acquires as another instance, releases.
struct LeaseLane {
    key: (String, String),
    /// Of its network.
    deletions: Arc<Deletions>,
    number: u16,
    client: LeaseServiceClient<Channel>,
    channel: Channel,
    rng: StdRng,
    begun: watch::Sender<()>,
}

impl LeaseLane {
    async fn run(mut self, mut item: LeaseItem) -> anyhow::Result<Account<(String, String), LeaseItem>> {
        let mut figures = Figures::default();
        loop {
            let call = match &item.known {
                Some(_) if self.rng.random_bool(0.4) => LeaseCall::Release,
                _ => LeaseCall::Acquire { instance: self.rng.random() },
            };
            item.open = Some(call);
            let deletions = self.deletions.done();
            match self.call(call, item.known.as_ref()).await {
                Ok(known) => {
                    item = Item { known, open: None, deletions };
                    figures.acknowledged += 1;
                    self.begun.send_replace(());
                }
                Err(status) if is_gone(&status) => {
                    figures.open += 1;
                    return Ok(Account { key: self.key, item, figures });
                }
                Err(status) => {
                    self.allowed(&status, call).with_context(|| format!("{:?}", self.key))?;
                    item.open = None;
                    figures.refused += 1;
                    if status.code() == Code::NotFound {
                        item.known = None;
                        // Its network comes again, at its own pace.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
        }
    }

    async fn call(
        &mut self,
        call: LeaseCall,
        known: Option<&v1::Lease>,
    ) -> Result<Option<v1::Lease>, Status> {
        match (call, known) {
            (LeaseCall::Release, Some(lease)) => {
                let request = v1::ReleaseLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
                self.client.release_lease(request).await.map(|_| None)
            }
            (LeaseCall::Release, None) => Err(Status::internal("there is nothing to release")),
            (LeaseCall::Acquire { instance }, _) => {
                let endpoint = client::endpoint(self.number + 1);
                client::acquire(&self.channel, &self.key.0, instance, endpoint).await.map(Some)
            }
        }
    }

    /// Only what the game itself brings about may be refused.
    fn allowed(&self, status: &Status, call: LeaseCall) -> anyhow::Result<()> {
        let passes = self.key.0.starts_with("passing");
        let allowed = match status.code() {
            Code::ResourceExhausted => matches!(call, LeaseCall::Acquire { .. }),
            Code::NotFound => passes,
            Code::FailedPrecondition => passes && Reason::InUse.is_of(status),
            _ => false,
        };
        ensure!(allowed, "{call:?} was refused: {status:?}");
        Ok(())
    }
}

/// One network: created, deleted with whatever is in it, and again.
async fn network_lane(
    (key, deletions): (String, Arc<Deletions>),
    number: u16,
    channel: Channel,
    mut item: NetworkItem,
) -> anyhow::Result<Account<String, NetworkItem>> {
    let mut figures = Figures::default();
    let mut client = NetworkServiceClient::new(channel.clone());
    loop {
        let call = if item.known.is_some() { NetworkCall::Delete } else { NetworkCall::Create };
        item.open = Some(call);
        let answer = match call {
            NetworkCall::Create => {
                client::create_network(&channel, &key, &pool(100 + number), 27).await.map(Some)
            }
            NetworkCall::Delete => {
                deletions.ask();
                let request = v1::DeleteNetworkRequest { name: format!("networks/{key}"), force: true };
                client.delete_network(request).await.map(|_| None)
            }
        };
        match answer {
            Ok(known) => {
                if known.is_none() {
                    deletions.settle();
                }
                item = Item { known, ..Item::default() };
                figures.acknowledged += 1;
            }
            Err(status) if is_gone(&status) => {
                figures.open += 1;
                return Ok(Account { key, item, figures });
            }
            Err(status) if item.deletions > 0 && status.code() == Code::NotFound => {
                deletions.settle();
                item = Item::default();
                figures.refused += 1;
            }
            // Its VNI may still cool down.
            Err(status) if Reason::Exhausted.is_of(&status) => {
                item.open = None;
                figures.refused += 1;
            }
            Err(status) => bail!("{key}: {call:?} was refused: {status:?}"),
        }
    }
}

/// Whether the call has no answer because the server is gone.
fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
        && loden_proto::reason::of(status).is_none()
}

/// An observer of one network that comes back after every kill.
struct Watcher {
    follower: Follower,
    incarnation: String,
}

impl Watcher {
    async fn begin(admin: &Channel) -> anyhow::Result<Self> {
        let mut follower = Follower::observer(&lasting(0));
        follower.open(admin).await?;
        ensure!(follower.next().await? == Seen::Snapshot { adopting: false }, "no snapshot came first");
        Ok(Self { follower, incarnation: incarnation(admin).await? })
    }

    /// Takes in whatever is published until the watch ends.
    async fn read_on(mut self) -> Self {
        while self.follower.next().await.is_ok() {}
        self
    }

    /// Resumes where the last watch ended, and has what the lists have.
    async fn compare(&mut self, admin: &Channel, witness: &Witness) -> anyhow::Result<()> {
        // A watcher that had been told of a change that is lost would have seen another store's life begin.
        let incarnation = incarnation(admin).await?;
        ensure!(incarnation == self.incarnation, "incarnation {incarnation} has begun");
        self.follower.open(admin).await?;
        match tokio::time::timeout(ANSWER, self.follower.next()).await? {
            Ok(Seen::Delta { .. } | Seen::Heartbeat) => {}
            other => bail!("the watch did not resume: {other:?}"),
        }
        let of_network = witness.leases.iter().filter(|((network, _), _)| *network == lasting(0));
        let expected: BTreeMap<_, _> = of_network
            .filter_map(|((_, node), item)| Some((node.clone(), item.known.as_ref()?.subnets.clone())))
            .collect();
        let peers = self.follower.peers.iter();
        let seen: BTreeMap<_, _> = peers.map(|(node, peer)| (node.clone(), peer.subnets.clone())).collect();
        ensure!(seen == expected, "the watch shows {seen:?}, the leases are {expected:?}");
        Ok(())
    }
}

async fn incarnation(admin: &Channel) -> Result<String, Status> {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    let status = cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner();
    Ok(format!("{}{}", status.incarnation, if status.adopting_until.is_some() { " (adopting)" } else { "" }))
}
