//! One network: its leases, reservations and slots, with the indexes that answer in O(log n).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use loden_proto::model::{LeaseName, Mac, Network, Subnets};
use loden_proto::names::NodeId;

use super::alloc::Slots;
use super::record::{Deletion, ExpiryRecord, LeaseRecord, ReservationRecord, Stamp, Stored};
use crate::store::Revision;

/// A lease, and when it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct StoredLease {
    pub(super) record: LeaseRecord,
    pub(super) revision: Revision,
    pub(super) expiry: Option<Stored<ExpiryRecord>>,
}

impl StoredLease {
    /// Of the last change, a renewal included.
    pub(super) fn last_change(&self) -> Revision {
        self.expiry.as_ref().map_or(self.revision, |expiry| expiry.revision.max(self.revision))
    }

    /// Whether the persisted expiry is at or after a time.
    pub(super) fn covers(&self, time: Stamp) -> bool {
        self.expiry.as_ref().is_some_and(|expiry| expiry.record.expires >= time)
    }
}

/// Everything of one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NetworkLedger {
    pub(super) network: Network,
    pub(super) deleting: Option<Deletion>,
    pub(super) leases: BTreeMap<NodeId, StoredLease>,
    pub(super) reservations: BTreeMap<NodeId, Stored<ReservationRecord>>,
    pub(super) slots: Slots,
    /// Expired leases, the longest held first.
    pub(super) held: BTreeSet<(Stamp, NodeId)>,
    /// The nodes with an active lease that use a MAC.
    pub(super) macs: BTreeMap<Mac, BTreeSet<NodeId>>,
}

impl NetworkLedger {
    pub(super) fn new(network: Network, deleting: Option<Deletion>) -> Self {
        let mut slots = Slots::default();
        slots.set_pools(&network.pools);
        Self {
            network,
            deleting,
            leases: BTreeMap::new(),
            reservations: BTreeMap::new(),
            slots,
            held: BTreeSet::new(),
            macs: BTreeMap::new(),
        }
    }

    /// The network's record has changed.
    pub(super) fn set_network(&mut self, network: Network, deleting: Option<Deletion>) {
        if network.pools != self.network.pools {
            self.slots.set_pools(&network.pools);
        }
        self.network = network;
        self.deleting = deleting;
    }

    /// The revision of the network's record.
    pub(super) const fn revision(&self) -> Revision {
        Revision(self.network.revision)
    }

    /// How long a lease lives.
    pub(super) fn lease_ttl(&self, default: Duration) -> Duration {
        self.network.lease_ttl.unwrap_or(default)
    }

    /// The name of a lease or reservation in this network.
    pub(super) fn name(&self, node: &NodeId) -> LeaseName {
        LeaseName { network: self.network.id.clone(), node: node.clone() }
    }

    /// Whether a reservation of the node binds all that it reserves to these subnets: such a lease never
    /// expires.
    pub(super) fn binds(&self, node: &NodeId, subnets: &Subnets) -> bool {
        self.reservations.get(node).is_some_and(|reservation| {
            reservation.record.subnets.iter().all(|slot| subnets.iter().any(|subnet| subnet == slot))
        })
    }

    /// Whether a slot is reserved for its own or any other node.
    pub(super) fn is_reserved(&self, slot: IpNet) -> bool {
        self.slots.claim(slot).is_some_and(|claim| claim.record.reserved.is_some())
    }

    /// Sets a lease; its expiry stays.
    pub(super) fn set_lease(&mut self, node: &NodeId, record: LeaseRecord, revision: Revision) {
        let expiry = self.unset_lease(node).and_then(|lease| lease.expiry);
        match record.held_since {
            Some(since) => {
                self.held.insert((since, node.clone()));
            }
            None => {
                for vtep in record.endpoint.vteps() {
                    self.macs.entry(vtep.mac).or_default().insert(node.clone());
                }
            }
        }
        self.leases.insert(node.clone(), StoredLease { record, revision, expiry });
    }

    /// Unsets a lease and says what it was.
    pub(super) fn unset_lease(&mut self, node: &NodeId) -> Option<StoredLease> {
        let lease = self.leases.remove(node)?;
        if let Some(since) = lease.record.held_since {
            self.held.remove(&(since, node.clone()));
        }
        for vtep in lease.record.endpoint.vteps() {
            if let Some(nodes) = self.macs.get_mut(&vtep.mac) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.macs.remove(&vtep.mac);
                }
            }
        }
        Some(lease)
    }
}
