//! From committed records to the ledger, and to what watchers must hear of them.
//!
//! ```text
//!  Loaded ──records──┐                    ┌─▶ indexes of the ledger
//!                    ├─▶ read ─▶ in order ┤
//!  Batch ──changes───┘                    └─▶ Applied {peers, networks, cluster}: from the batch alone
//! ```

use ipnet::IpNet;
use loden_proto::model::{LeaseName, Network, Peer};
use loden_proto::names::{NetworkId, NodeId};
use serde::de::DeserializeOwned;

use super::Ledger;
use super::key::RecordKey;
use super::members::Change as MemberChange;
use super::network::NetworkLedger;
use super::read::peer;
use super::record::{
    AuthorityRecord, CatalogRecord, ClusterRecord, ExpiryRecord, LeaseRecord, NetworkRecord, RequestRecord,
    ReservationRecord, SlotRecord, Stored, VniRecord, decode,
};
use crate::store::{Batch, Change, Key, Loaded, Revision};

/// A record that cannot be read, or that contradicts another. Whoever gets this must not go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("record \"{key}\" {problem}")]
pub struct Corrupt {
    /// Which record.
    pub key: Key,
    /// What is wrong with it.
    pub problem: String,
}

/// What a batch means for watchers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// The batch's.
    pub revision: Revision,
    /// Peers to send or withdraw. An upsert may equal what was sent before.
    pub peers: Vec<(NetworkId, PeerChange)>,
    /// Networks as they are now; `None`: deleted.
    pub networks: Vec<(NetworkId, Option<Network>)>,
    /// The incarnation or its adoption has changed, and with it, without any entry in `peers`, who is a
    /// peer: read [`Ledger::peers`] anew; no history leads across this batch.
    pub cluster: bool,
}

/// What happened to a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerChange {
    /// It is new or changed.
    Upsert(Peer),
    /// It is no peer any more. It may not have been one before.
    Removed(NodeId),
}

/// A change, read. Ordered as it must be applied: networks exist before and after what is in them.
enum Entry {
    Network(NetworkId, NetworkRecord),
    Lease(LeaseName, Option<LeaseRecord>),
    Expiry(LeaseName, Option<ExpiryRecord>),
    Reservation(LeaseName, Option<ReservationRecord>),
    Slot(NetworkId, IpNet, Option<SlotRecord>),
    Vni(loden_proto::model::Vni, Option<VniRecord>),
    Request(Option<RequestRecord>),
    Cluster(Option<ClusterRecord>),
    Authority(Option<AuthorityRecord>),
    Catalog(bool),
    NoNetwork(NetworkId),
    Member(MemberChange),
}

impl Entry {
    fn read(key: &Key, value: Option<&[u8]>) -> Result<Self, Corrupt> {
        let problem = "is not known to this version";
        let name = RecordKey::parse(key).ok_or_else(|| corrupt(key, problem))?;
        Ok(match name {
            RecordKey::Cluster => Self::Cluster(value_of(key, value)?),
            RecordKey::Authority => Self::Authority(value_of(key, value)?),
            RecordKey::Catalog => Self::Catalog(value_of::<CatalogRecord>(key, value)?.is_some()),
            RecordKey::Network(id) => match value_of(key, value)? {
                Some(record) => Self::Network(id, record),
                None => Self::NoNetwork(id),
            },
            RecordKey::Vni(vni) => Self::Vni(vni, value_of(key, value)?),
            RecordKey::Lease(lease) => Self::Lease(lease, value_of(key, value)?),
            RecordKey::Expiry(lease) => Self::Expiry(lease, value_of(key, value)?),
            RecordKey::Slot(network, slot) => Self::Slot(network, slot, value_of(key, value)?),
            RecordKey::Reservation(of) => Self::Reservation(of, value_of(key, value)?),
            RecordKey::Request(_) => Self::Request(value_of(key, value)?),
            RecordKey::Identity(node) => Self::Member(MemberChange::Identity(node, value_of(key, value)?)),
            RecordKey::Token(id) => Self::Member(MemberChange::Token(id, value_of(key, value)?)),
            RecordKey::Spent(id, hash) => Self::Member(MemberChange::Spent(id, hash, value_of(key, value)?)),
        })
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Network(..) => 0,
            Self::Lease(..) => 1,
            Self::NoNetwork(_) => 3,
            _ => 2,
        }
    }
}

fn value_of<T: DeserializeOwned>(key: &Key, value: Option<&[u8]>) -> Result<Option<T>, Corrupt> {
    let read = |value| decode(value).map_err(|error| corrupt(key, format!("cannot be read: {error}")));
    value.map(read).transpose()
}

pub(super) fn corrupt(key: &Key, problem: impl Into<String>) -> Corrupt {
    Corrupt { key: key.clone(), problem: problem.into() }
}

fn read_batch(batch: &Batch) -> Result<Vec<(&Key, Entry)>, Corrupt> {
    let mut entries = Vec::with_capacity(batch.changes.len());
    for change in batch.changes.iter() {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value.as_ref())),
            Change::Delete { key } => (key, None),
        };
        entries.push((key, Entry::read(key, value)?));
    }
    entries.sort_by_key(|(_, entry)| entry.rank());
    Ok(entries)
}

fn announce(revision: Revision, entries: &[(&Key, Entry)]) -> Applied {
    let mut applied = Applied { revision, ..Applied::default() };
    for (_, entry) in entries {
        match entry {
            Entry::Network(id, record) => {
                applied.networks.push((id.clone(), Some(record.network(id.clone(), revision))));
            }
            Entry::NoNetwork(id) => applied.networks.push((id.clone(), None)),
            Entry::Lease(LeaseName { network, node }, record) => {
                let change = match record {
                    Some(lease) if lease.held_since.is_none() => PeerChange::Upsert(peer(node, lease)),
                    _ => PeerChange::Removed(node.clone()),
                };
                applied.peers.push((network.clone(), change));
            }
            Entry::Cluster(_) => applied.cluster = true,
            Entry::Expiry(..)
            | Entry::Reservation(..)
            | Entry::Slot(..)
            | Entry::Vni(..)
            | Entry::Request(_)
            | Entry::Authority(_)
            | Entry::Catalog(_)
            | Entry::Member(_) => {}
        }
    }
    applied
}

impl Ledger {
    /// The ledger that the store's records say.
    ///
    /// # Errors
    /// When a record cannot be read or contradicts another.
    pub fn load(loaded: &Loaded) -> Result<Self, Corrupt> {
        let mut entries = Vec::with_capacity(loaded.records.len());
        for record in &loaded.records {
            let entry = Entry::read(&record.key, Some(&record.value))?;
            entries.push((&record.key, entry, record.mod_revision));
        }
        entries.sort_by_key(|(_, entry, _)| entry.rank());
        let mut ledger = Self { revision: loaded.revision, ..Self::default() };
        for (key, entry, revision) in entries {
            ledger.enter(key, entry, revision)?;
        }
        ledger.check()?;
        Ok(ledger)
    }

    /// Takes over a committed batch: every one, in order.
    ///
    /// # Errors
    /// When a record cannot be read or is of a network that does not exist; the ledger may then have
    /// taken over a part.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied, Corrupt> {
        let entries = read_batch(batch)?;
        let applied = announce(batch.revision, &entries);
        for (key, entry) in entries {
            self.enter(key, entry, batch.revision)?;
        }
        self.revision = batch.revision;
        Ok(applied)
    }

    /// What a batch means for watchers, from the batch alone: to rebuild their history after a restart.
    /// Equal to what [`Self::apply`] says of it.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn peer_changes(batch: &Batch) -> Result<Applied, Corrupt> {
        Ok(announce(batch.revision, &read_batch(batch)?))
    }

    fn enter(&mut self, key: &Key, entry: Entry, revision: Revision) -> Result<(), Corrupt> {
        match entry {
            Entry::Network(id, record) => self.set_network(id, &record, revision),
            Entry::NoNetwork(id) => self.unset_network(&id),
            Entry::Lease(name, record) => self.set_lease(key, &name, record, revision)?,
            Entry::Expiry(name, record) => {
                let expiry = record.map(|record| Stored { record, revision });
                self.set_expiry(key, &name, expiry)?;
            }
            Entry::Reservation(name, record) => {
                let entry = self.entry_of(key, &name.network)?;
                match record {
                    Some(record) => entry.reservations.insert(name.node, Stored { record, revision }),
                    None => entry.reservations.remove(&name.node),
                };
            }
            Entry::Slot(network, slot, record) => {
                let slots = &mut self.entry_of(key, &network)?.slots;
                match record {
                    Some(record) => slots.put(slot, record, revision),
                    None => slots.delete(slot),
                }
            }
            Entry::Vni(vni, Some(record)) => self.vnis.put(vni, record, revision),
            Entry::Vni(vni, None) => self.vnis.delete(vni),
            Entry::Request(record) => {
                let record = record.map(|record| Stored { record, revision });
                if let Some(old) = self.requests.remove(key) {
                    self.request_ends.remove(&(old.record.until, key.clone()));
                }
                if let Some(stored) = record {
                    self.request_ends.insert((stored.record.until, key.clone()));
                    self.requests.insert(key.clone(), stored);
                }
            }
            Entry::Cluster(record) => self.cluster = record.map(|record| Stored { record, revision }),
            Entry::Authority(record) => self.authority = record.map(|record| Stored { record, revision }),
            Entry::Catalog(exists) => self.catalog = exists.then_some(revision),
            Entry::Member(change) => self.members.apply(change, revision),
        }
        Ok(())
    }

    fn entry_of(&mut self, key: &Key, network: &NetworkId) -> Result<&mut NetworkLedger, Corrupt> {
        self.networks
            .get_mut(network)
            .ok_or_else(|| corrupt(key, format!("is of the network {network}, which does not exist")))
    }

    fn set_network(&mut self, id: NetworkId, record: &NetworkRecord, revision: Revision) {
        self.unset_pools(&id);
        for pool in &record.pools {
            self.pools.insert(pool.cidr().network(), (pool.cidr(), id.clone()));
        }
        let network = record.network(id.clone(), revision);
        match self.networks.get_mut(&id) {
            Some(entry) => entry.set_network(network, record.deleting),
            None => drop(self.networks.insert(id, NetworkLedger::new(network, record.deleting))),
        }
    }

    fn unset_network(&mut self, id: &NetworkId) {
        self.unset_pools(id);
        self.networks.remove(id);
    }

    fn unset_pools(&mut self, id: &NetworkId) {
        for pool in self.networks.get(id).iter().flat_map(|entry| &entry.network.pools) {
            self.pools.remove(&pool.cidr().network());
        }
    }

    fn set_lease(
        &mut self,
        key: &Key,
        name: &LeaseName,
        record: Option<LeaseRecord>,
        revision: Revision,
    ) -> Result<(), Corrupt> {
        let entry = self.entry_of(key, &name.network)?;
        let old = entry.leases.get(&name.node).cloned();
        let active = record.as_ref().filter(|record| record.held_since.is_none());
        let addresses: Vec<_> = active.iter().flat_map(|record| record.endpoint.addresses()).collect();
        let gone = record.is_none();
        match record {
            Some(record) => entry.set_lease(&name.node, record, revision),
            None => drop(entry.unset_lease(&name.node)),
        }
        if let Some(old) = old {
            for address in old.record.endpoint.addresses() {
                if let Some(leases) = self.addresses.get_mut(&address) {
                    leases.remove(name);
                    if leases.is_empty() {
                        self.addresses.remove(&address);
                    }
                }
            }
            if let Some(expiry) = old.expiry.filter(|_| gone) {
                self.expiries.remove(&(expiry.record.expires, name.clone()));
            }
        }
        for address in addresses {
            self.addresses.entry(address).or_default().insert(name.clone());
        }
        Ok(())
    }

    fn set_expiry(
        &mut self,
        key: &Key,
        name: &LeaseName,
        expiry: Option<Stored<ExpiryRecord>>,
    ) -> Result<(), Corrupt> {
        let lease = self.entry_of(key, &name.network)?.leases.get_mut(&name.node);
        let Some(lease) = lease else {
            // The lease went in the same batch, and took its expiry with it.
            return if expiry.is_none() {
                Ok(())
            } else {
                Err(corrupt(key, "is of a lease that does not exist"))
            };
        };
        let old = std::mem::replace(&mut lease.expiry, expiry.clone());
        if let Some(old) = old {
            self.expiries.remove(&(old.record.expires, name.clone()));
        }
        if let Some(new) = expiry {
            self.expiries.insert((new.record.expires, name.clone()));
        }
        Ok(())
    }
}
