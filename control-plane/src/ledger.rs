//! Who holds what: networks, leases and reservations; and who is let in. Plain data; no clock, no disk, no wire.
//!
//! ```text
//!             Context {now, defaults, settling, streaming}
//!                │
//!  Command ─▶ decide(&self) ─▶ Decision {changes, guards} ─▶ store ─▶ Batch ─▶ apply(&mut self) ─▶ Applied
//!                └─▶ Refusal                                           └─▶ peer_changes (history) ─▶ ┘
//! ```
//!
//! `decide` reads and never writes; `apply` writes what was committed and never refuses. Time, chance and
//! who is streaming are arguments. Uniqueness is structural: the record of a slot or VNI is the claim to
//! it, and every decision guards the records it leans on, so of two decisions on one slot only one can be
//! committed.
//!
//! ```text
//!  a slot:  (no record) ──acquire──▶ leased ──expire──▶ leased, held ──stolen──▶ leased by another
//!               ▲                      ▲ │                   │
//!               │       back to the    │ └──────release──────┤
//!              tidy     same node      │                     ▼
//!               └──────────────────────┴───────────────── cooling     reserved: beside any of these
//! ```
//!
//! MAC and underlay addresses have no records of their own: `decide` finds a second use of one because it
//! sees every command accepted so far, in order.

mod alloc;
mod apply;
mod authority;
mod check;
mod command;
mod decide;
mod key;
mod members;
mod network;
#[cfg(test)]
mod properties;
mod read;
mod record;
mod refusal;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod testing;
mod vni;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::LeaseName;
use loden_proto::names::NetworkId;

use self::members::Members;
use self::network::NetworkLedger;
use self::record::{AuthorityRecord, ClusterRecord, RequestRecord, Stamp, Stored};
use self::vni::Vnis;
use crate::store::{Key, Revision};

pub use self::apply::{Applied, Corrupt, PeerChange};
pub use self::command::{
    Command, Context, Decision, Defaults, Farewell, Joiner, Knocked, NetworkChange, OffloadChange, Streaming,
    Want,
};
pub(crate) use self::key::digest;
pub use self::members::{Member, Token};
pub use self::read::{Cluster, Lease, LeaseState, PoolUse, Reservation};
pub use self::refusal::{Named, Refusal, Shut, VniRange};

/// Everything that was committed up to one revision.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// The last batch that was applied.
    revision: Revision,
    cluster: Option<Stored<ClusterRecord>>,
    /// Of the CA that several control planes share.
    authority: Option<Stored<AuthorityRecord>>,
    /// Of the record that every change to the set of networks rewrites.
    catalog: Option<Revision>,
    networks: BTreeMap<NetworkId, NetworkLedger>,
    vnis: Vnis,
    /// All pools of all networks by their first address; they never overlap.
    pools: BTreeMap<IpAddr, (IpNet, NetworkId)>,
    /// The active leases that use an underlay address.
    addresses: BTreeMap<IpAddr, BTreeSet<LeaseName>>,
    /// When active leases expire, earliest first.
    expiries: BTreeSet<(Stamp, LeaseName)>,
    /// Answers to repeated requests, by their record's key.
    requests: BTreeMap<Key, Stored<RequestRecord>>,
    request_ends: BTreeSet<(Stamp, Key)>,
    /// Who is let in.
    members: Members,
}
