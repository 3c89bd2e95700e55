//! What can be read: networks, leases, reservations, peers, and how full it is.

use std::fmt::{self, Display};
use std::ops::Bound;
use std::time::SystemTime;

use loden_proto::model::{Endpoint, Epoch, InstanceId, LeaseName, Network, Peer, Pool, Subnets};
use loden_proto::names::{NetworkId, NodeId};

use super::Ledger;
use super::network::{NetworkLedger, StoredLease};
use super::record::{Incarnation, LeaseRecord, ReservationRecord, Stored};
use crate::store::Revision;

/// A node's subnets in a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Of which node in which network.
    pub name: LeaseName,
    /// One per family.
    pub subnets: Subnets,
    /// Where the node receives.
    pub endpoint: Endpoint,
    /// Higher after every acquire by another instance. Compared for equality only.
    pub epoch: Epoch,
    /// Whether the others know it.
    pub state: LeaseState,
    /// Which instance of the node acquired it last.
    pub instance: InstanceId,
    /// When it was first acquired.
    pub created: SystemTime,
    /// Not before this time does it expire; `None` when it never does (reserved) or has (held).
    pub expires: Option<SystemTime>,
    /// Whether a reservation binds the subnets to the node.
    pub reserved: bool,
    /// Of its last change, renewals included.
    pub revision: u64,
    /// In which its node last acquired it; another one than the cluster's is not confirmed.
    pub incarnation: u128,
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeaseState {
    /// In use.
    Active,
    /// Expired, and kept for its node until it is released or stolen.
    Held {
        /// When it expired.
        since: SystemTime,
    },
}

/// Subnets bound to a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// For which node in which network.
    pub name: LeaseName,
    /// At most one per family.
    pub subnets: Subnets,
    /// When it was made.
    pub created: SystemTime,
}

/// The store's lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// The current one.
    pub incarnation: u128,
    /// Earlier ones that are known, the oldest first.
    pub predecessors: Vec<u128>,
    /// Leases are collected from their agents, at least until then.
    pub adopt_until: Option<SystemTime>,
}

/// How the slots of a pool are used. The first slot, never given out, is in no figure but `slots`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolUse {
    /// The pool.
    pub pool: Pool,
    /// All slots.
    pub slots: u64,
    /// Free.
    pub free: u64,
    /// With an active lease.
    pub leased: u64,
    /// With an expired lease.
    pub held: u64,
    /// Reserved, and without a lease.
    pub reserved: u64,
    /// Given back and kept from others for a while.
    pub cooling: u64,
}

impl Display for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, slots, free, leased, held, reserved, cooling } = self;
        write!(
            f,
            "{pool} has {} usable subnets: {free} free, {leased} leased, {held} held, {reserved} reserved, \
             {cooling} cooling down",
            slots - 1
        )
    }
}

impl Ledger {
    /// The last revision that was applied.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// All networks, by name.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values().map(|entry| &entry.network)
    }

    /// One network.
    #[must_use]
    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(|entry| &entry.network)
    }

    /// The leases of one network or of all, by network and node, from the one after `after` on.
    pub fn leases<'a>(
        &'a self,
        of: Option<&'a NetworkId>,
        after: Option<&'a LeaseName>,
    ) -> impl Iterator<Item = Lease> + 'a {
        self.entries(of, after).flat_map(move |entry| {
            let leases = entry.leases.range::<NodeId, _>(entry.later_than(after));
            leases.map(|(node, stored)| entry.lease(node, stored))
        })
    }

    /// One lease.
    #[must_use]
    pub fn lease(&self, name: &LeaseName) -> Option<Lease> {
        let entry = self.networks.get(&name.network)?;
        Some(entry.lease(&name.node, entry.leases.get(&name.node)?))
    }

    /// How many leases there are in all networks, held ones too.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.networks.values().map(|entry| entry.leases.len()).sum()
    }

    /// The reservations of one network or of all, by network and node, from the one after `after` on.
    pub fn reservations<'a>(
        &'a self,
        of: Option<&'a NetworkId>,
        after: Option<&'a LeaseName>,
    ) -> impl Iterator<Item = Reservation> + 'a {
        self.entries(of, after).flat_map(move |entry| {
            let reservations = entry.reservations.range::<NodeId, _>(entry.later_than(after));
            reservations.map(|(node, stored)| entry.reservation(node, stored))
        })
    }

    /// One reservation.
    #[must_use]
    pub fn reservation(&self, name: &LeaseName) -> Option<Reservation> {
        let entry = self.networks.get(&name.network)?;
        Some(entry.reservation(&name.node, entry.reservations.get(&name.node)?))
    }

    /// What the watchers of a network must see, by node: active leases, during adoption only those that
    /// their nodes have confirmed.
    pub fn peers<'a>(&'a self, network: &NetworkId) -> impl Iterator<Item = Peer> + use<'a> {
        let leases = self.networks.get(network).into_iter().flat_map(|entry| &entry.leases);
        leases.filter(|(_, lease)| self.is_peer(&lease.record)).map(|(node, lease)| peer(node, &lease.record))
    }

    /// The store's lives; `None` before the first has begun.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        let record = &self.cluster.as_ref()?.record;
        Some(Cluster {
            incarnation: record.incarnation.0,
            predecessors: record.predecessors.iter().map(|life| life.0).collect(),
            adopt_until: record.adopt_until.map(Into::into),
        })
    }

    /// The active leases that expire, the first to do so first, each with the revision that
    /// [`Command::ExpireLease`](super::Command::ExpireLease) wants.
    pub fn lease_expiries(&self) -> impl Iterator<Item = (&LeaseName, SystemTime, u64)> {
        self.expiries.iter().filter_map(|(expires, name)| {
            let entry = self.networks.get(&name.network)?;
            let lease = entry.leases.get(&name.node)?;
            let bound = entry.binds(&name.node, &lease.record.subnets);
            (!bound).then(|| (name, (*expires).into(), lease.last_change().0))
        })
    }

    /// How full the pools of a network are.
    #[must_use]
    pub fn capacity(&self, network: &NetworkId) -> Option<Vec<PoolUse>> {
        let entry = self.networks.get(network)?;
        Some(entry.network.pools.iter().map(|pool| entry.pool_use(pool)).collect())
    }

    /// Whether a node has a lease that it does not owe to a reservation: to an operator's word, which says
    /// nothing of any other node.
    #[must_use]
    pub fn has_given(&self) -> bool {
        let owed =
            |entry: &NetworkLedger, node, lease: &StoredLease| entry.binds(node, &lease.record.subnets);
        self.networks.values().any(|entry| entry.leases.iter().any(|(node, lease)| !owed(entry, node, lease)))
    }

    /// Whether leases are being collected after the store was lost.
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.record.adopt_until.is_some())
    }

    /// The life of the store that everything is made in now.
    pub(super) fn present_incarnation(&self) -> Incarnation {
        self.cluster.as_ref().map_or(Incarnation(0), |cluster| cluster.record.incarnation)
    }

    /// Whether a lease was acquired in this life of the store.
    pub(super) fn is_confirmed(&self, lease: &LeaseRecord) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.record.incarnation == lease.incarnation)
    }

    fn is_peer(&self, lease: &LeaseRecord) -> bool {
        lease.held_since.is_none() && (!self.is_adopting() || self.is_confirmed(lease))
    }

    fn entries<'a>(
        &'a self,
        of: Option<&'a NetworkId>,
        after: Option<&'a LeaseName>,
    ) -> impl Iterator<Item = &'a NetworkLedger> {
        let first = after.map(|after| &after.network);
        let from = of.max(first).map_or(Bound::Unbounded, Bound::Included);
        let until = of.map_or(Bound::Unbounded, Bound::Included);
        // A range that ends before it begins would panic: `after` lies behind the one network asked for.
        let empty = of.zip(first).is_some_and(|(of, first)| first > of);
        let bounds = (!empty).then_some((from, until));
        bounds
            .into_iter()
            .flat_map(|bounds| self.networks.range::<NetworkId, _>(bounds))
            .map(|(_, entry)| entry)
    }
}

impl NetworkLedger {
    /// The nodes behind a position in the order of all networks.
    fn later_than<'a>(&self, after: Option<&'a LeaseName>) -> (Bound<&'a NodeId>, Bound<&'a NodeId>) {
        let here = after.filter(|after| after.network == self.network.id);
        (here.map_or(Bound::Unbounded, |after| Bound::Excluded(&after.node)), Bound::Unbounded)
    }

    fn lease(&self, node: &NodeId, stored: &StoredLease) -> Lease {
        let record = &stored.record;
        let reserved = self.binds(node, &record.subnets);
        let expires = stored.expiry.as_ref().filter(|_| !reserved && record.held_since.is_none());
        Lease {
            name: self.name(node),
            subnets: record.subnets,
            endpoint: record.endpoint.clone(),
            epoch: record.epoch,
            state: match record.held_since {
                Some(since) => LeaseState::Held { since: since.into() },
                None => LeaseState::Active,
            },
            instance: record.instance,
            created: record.created.into(),
            expires: expires.map(|expiry| expiry.record.expires.into()),
            reserved,
            revision: stored.last_change().0,
            incarnation: record.incarnation.0,
        }
    }

    fn reservation(&self, node: &NodeId, stored: &Stored<ReservationRecord>) -> Reservation {
        let Stored { record, .. } = stored;
        Reservation { name: self.name(node), subnets: record.subnets, created: record.created.into() }
    }

    /// How full a pool is.
    pub(super) fn pool_use(&self, pool: &Pool) -> PoolUse {
        let (slots, free) = (u64::from(pool.slots()), self.slots.free(pool));
        let mut used = PoolUse { pool: *pool, slots, free, leased: 0, held: 0, reserved: 0, cooling: 0 };
        for (_, claim) in self.slots.claims().filter(|(slot, _)| pool.index(*slot).is_some()) {
            let lease = claim.record.lease.as_ref().and_then(|node| self.leases.get(node));
            let count = match lease {
                Some(lease) if lease.record.held_since.is_some() => &mut used.held,
                Some(_) => &mut used.leased,
                None if claim.record.reserved.is_some() => &mut used.reserved,
                None => &mut used.cooling,
            };
            *count += 1;
        }
        used
    }
}

/// What the others must know of a lease.
pub(super) fn peer(node: &NodeId, lease: &LeaseRecord) -> Peer {
    Peer { node: node.clone(), subnets: lease.subnets, endpoint: lease.endpoint.clone() }
}
