//! A rig for tests: a ledger over a real store in memory, with a made-up clock, streams and settings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, Stream, StreamExt};
use loden_proto::model::{
    Backend, Endpoint, Family, InstanceId, LeaseName, NetworkSpec, Peer, Pool, Port, Receiver, Subnets, Vni,
    VxlanBackend, VxlanReceiver,
};
use loden_proto::names::{NetworkId, NodeId};

use super::{
    Applied, Command, Context, Decision, Defaults, Knocked, Lease, Ledger, NetworkChange, PeerChange,
    Refusal, Streaming,
};
use crate::store::{Batch, Change, CommitError, Guard, Loaded, MemoryStore, Revision, Store, StoreError};

type Follower = Pin<Box<dyn Stream<Item = Result<Batch, StoreError>> + Send>>;

pub(super) struct Rig {
    pub(super) ledger: Ledger,
    pub(super) now: SystemTime,
    pub(super) defaults: Defaults,
    pub(super) settling: Option<Duration>,
    pub(super) knocked: Option<Knocked>,
    pub(super) streams: Streams,
    store: MemoryStore,
    follower: Follower,
    /// What a watcher of each network has been told.
    watched: BTreeMap<NetworkId, BTreeMap<NodeId, Peer>>,
}

#[derive(Clone, Default)]
pub(super) struct Streams(pub(super) HashMap<LeaseName, InstanceId>);

impl Streaming for Streams {
    fn instance(&self, lease: &LeaseName) -> Option<InstanceId> {
        self.0.get(lease).copied()
    }
}

impl Rig {
    /// A ledger in the first life of its store.
    pub(super) fn new() -> Self {
        let mut rig = Self::empty();
        rig.must(Command::BeginIncarnation { id: 1, predecessor: None, adopt_until: None });
        rig
    }

    pub(super) fn empty() -> Self {
        let store = MemoryStore::new();
        Self {
            ledger: Ledger::default(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            defaults: Defaults::default(),
            settling: None,
            knocked: None,
            streams: Streams::default(),
            follower: Box::pin(store.follow(Revision(0))),
            store,
            watched: BTreeMap::new(),
        }
    }

    pub(super) fn decide(&self, command: &Command) -> Result<Decision, Refusal> {
        self.decide_on(&self.ledger, command)
    }

    pub(super) fn decide_on(&self, ledger: &Ledger, command: &Command) -> Result<Decision, Refusal> {
        let Self { now, defaults, settling, knocked, streams, .. } = self;
        let (now, settling, knocked) = (*now, *settling, *knocked);
        ledger.decide(command, &Context { now, defaults, settling, knocked, streaming: streams })
    }

    /// Decides, commits and applies, as often as the command takes.
    pub(super) fn run(&mut self, command: &Command) -> Result<Decision, Refusal> {
        loop {
            let decision = self.decide(command)?;
            if !decision.changes.is_empty() {
                let committed = self.commit(decision.changes.clone(), decision.guards.clone());
                committed.expect("a decision on the newest state is committed");
                self.catch_up();
            }
            if !decision.more {
                return Ok(decision);
            }
        }
    }

    pub(super) fn must(&mut self, command: Command) -> Decision {
        self.run(&command).unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"))
    }

    pub(super) fn refused(&mut self, command: Command) -> Refusal {
        let before = self.ledger.clone();
        let refusal = self.run(&command).expect_err("this command is refused");
        assert_eq!(self.ledger, before, "a refusal changes nothing");
        refusal
    }

    pub(super) fn commit(&self, changes: Vec<Change>, guards: Vec<Guard>) -> Result<Revision, CommitError> {
        self.store.commit(changes, guards).now_or_never().expect("the store in memory answers at once")
    }

    /// Applies what has been committed.
    pub(super) fn catch_up(&mut self) -> Vec<Applied> {
        let mut all = Vec::new();
        while let Some(Some(batch)) = self.follower.next().now_or_never() {
            let batch = batch.unwrap();
            let applied = self.ledger.apply(&batch).unwrap();
            assert_eq!(Ledger::peer_changes(&batch).unwrap(), applied, "the batch alone says the same");
            self.watch(&applied);
            all.push(applied);
        }
        all
    }

    fn watch(&mut self, applied: &Applied) {
        for (network, change) in &applied.peers {
            let peers = self.watched.entry(network.clone()).or_default();
            match change {
                PeerChange::Upsert(peer) => drop(peers.insert(peer.node.clone(), peer.clone())),
                PeerChange::Removed(node) => drop(peers.remove(node)),
            }
        }
        if applied.cluster {
            let networks: Vec<_> = self.ledger.networks().map(|network| network.id.clone()).collect();
            self.watched = networks.into_iter().map(|id| (id.clone(), self.peers(&id))).collect();
        }
    }

    fn peers(&self, network: &NetworkId) -> BTreeMap<NodeId, Peer> {
        self.ledger.peers(network).map(|peer| (peer.node.clone(), peer)).collect()
    }

    pub(super) fn loaded(&self) -> Loaded {
        self.store.load().now_or_never().unwrap().unwrap()
    }

    /// What must hold after every command.
    pub(super) fn check(&self) {
        self.ledger.check().unwrap();
        assert_eq!(Ledger::load(&self.loaded()).unwrap(), self.ledger, "loading is applying");
        let mut vnis = BTreeSet::new();
        for network in self.ledger.networks() {
            assert!(vnis.insert(network.vni), "VNI {} is there twice", network.vni);
            let peers = self.peers(&network.id);
            let watched = self.watched.get(&network.id).cloned().unwrap_or_default();
            assert_eq!(watched, peers, "a watcher knows the peers of {}", network.id);
            let vteps = peers.values().flat_map(|peer| peer.endpoint.vteps());
            let macs: Vec<_> = vteps.map(|vtep| vtep.mac).collect();
            assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), macs.len(), "one MAC, one peer");
        }
        self.check_uniqueness();
    }

    /// No two leases share an address, and what is reserved is its node's.
    pub(super) fn check_uniqueness(&self) {
        let mut ends = BTreeMap::new();
        for lease in self.ledger.leases(None, None) {
            for slot in lease.subnets.iter() {
                let entry = &self.ledger.networks[&lease.name.network];
                let reserved = entry.slots.claim(slot).and_then(|claim| claim.record.reserved.as_ref());
                assert!(
                    reserved.is_none_or(|node| *node == lease.name.node),
                    "{slot} is reserved for another"
                );
                let clash = ends.insert(slot.network(), (slot.broadcast(), lease.name.clone()));
                assert_eq!(clash, None, "{} has {slot} as well", lease.name);
            }
        }
        for ((_, (end, name)), (start, (_, other))) in ends.iter().zip(ends.iter().skip(1)) {
            assert!(end < start, "{name} overlaps {other}");
        }
    }

    pub(super) fn lease(&self, network: &str, node: &str) -> Lease {
        self.ledger.lease(&name(network, node)).expect("the lease exists")
    }

    pub(super) fn subnets(&self, network: &str, node: &str) -> String {
        self.lease(network, node).subnets.to_string()
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub(super) fn expire(&mut self, network: &str, node: &str) {
        let Lease { name, revision, expires, .. } = self.lease(network, node);
        self.now = self.now.max(expires.expect("the lease expires"));
        self.must(Command::ExpireLease { name, revision });
    }

    pub(super) fn stream(&mut self, network: &str, node: &str, instance: u128) {
        self.streams.0.insert(name(network, node), InstanceId(instance));
    }
}

pub(super) fn name(network: &str, node: &str) -> LeaseName {
    LeaseName { network: network.parse().unwrap(), node: node.parse().unwrap() }
}

/// A pool as it is displayed, or its CIDR alone.
pub(super) fn pool(text: &str) -> Pool {
    let (cidr, len) = text.split_once(" in /").map_or((text, None), |(cidr, len)| (cidr, Some(len)));
    Pool::new(cidr.parse().unwrap(), len.map(|len| len.parse().unwrap())).unwrap()
}

pub(super) fn spec(id: &str, pools: &[&str]) -> NetworkSpec {
    NetworkSpec {
        id: id.parse().unwrap(),
        pools: pools.iter().map(|text| pool(text)).collect(),
        vni: None,
        mtu: None,
        backend: Backend::Vxlan(VxlanBackend::default()),
        lease_ttl: None,
        masquerade: None,
    }
}

pub(super) fn network(id: &str, pools: &[&str]) -> Command {
    Command::CreateNetwork { spec: spec(id, pools), request_id: None }
}

/// Gives a network these pools.
pub(super) fn set_pools(id: &str, pools: &[&str]) -> Command {
    let pools = Some(pools.iter().map(|text| pool(text)).collect());
    update_network(id, NetworkChange { pools, ..NetworkChange::default() }, None)
}

pub(super) fn update_network(id: &str, change: NetworkChange, seen: Option<u64>) -> Command {
    Command::UpdateNetwork { id: id.parse().unwrap(), change, seen }
}

/// The endpoint of a node: its address is made from a number.
pub(super) fn endpoint(number: u8) -> Endpoint {
    Endpoint { v4: Some([192, 0, 2, number].into()), v6: None, receivers: Vec::new() }
}

/// The same with a VTEP of the network with this VNI.
pub(super) fn with_vtep(number: u8, vni: u32) -> Endpoint {
    let vtep = VxlanReceiver {
        family: Family::V4,
        vni: Vni::try_from(vni).unwrap(),
        port: Port::VXLAN,
        mac: [2, 0, 0, 0, 0, number].try_into().unwrap(),
        mtu: 1450,
        gbp: false,
    };
    Endpoint { receivers: vec![Receiver::Vxlan(vtep)], ..endpoint(number) }
}

/// A node named by one letter has an address of its own.
fn own_endpoint(node: &str) -> Endpoint {
    endpoint(node.bytes().last().unwrap())
}

pub(super) fn acquire(network: &str, node: &str, instance: u128) -> Command {
    acquire_at(network, node, instance, own_endpoint(node))
}

pub(super) fn acquire_at(network: &str, node: &str, instance: u128, endpoint: Endpoint) -> Command {
    Command::AcquireLease {
        name: name(network, node),
        instance: InstanceId(instance),
        claim: None,
        endpoint,
        underlay: Vec::new(),
        identity_epoch: 0,
    }
}

pub(super) fn claim(network: &str, node: &str, instance: u128, claim: &str) -> Command {
    Command::AcquireLease {
        name: name(network, node),
        instance: InstanceId(instance),
        claim: Some(subnets(claim)),
        endpoint: own_endpoint(node),
        underlay: Vec::new(),
        identity_epoch: 0,
    }
}

pub(super) fn subnets(text: &str) -> Subnets {
    Subnets::new(text.split(", ").map(|net| net.parse().unwrap())).unwrap()
}

pub(super) fn reserve(network: &str, node: &str, slots: &str) -> Command {
    Command::CreateReservation { name: name(network, node), subnets: subnets(slots), request_id: None }
}

pub(super) fn release(network: &str, node: &str) -> Command {
    Command::ReleaseLease { name: name(network, node), epoch: None }
}

pub(super) fn renew(network: &str, node: &str) -> Command {
    Command::RenewLease { name: name(network, node), epoch: None }
}
