//! The records: what each key's value says, as JSON.
//!
//! A field that this version does not know makes a record unreadable: an older server must not drop what
//! a newer one has written.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ipnet::IpNet;
use loden_proto::model::{
    Backend, Endpoint, Epoch, InstanceId, LeaseName, Masquerade, Mtu, Network, Pool, Subnets, Vni,
};
use loden_proto::names::{NetworkId, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::Revision;

/// A time in whole milliseconds since 1970, as it is kept; times outside of that range are cut to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// The time `after` this one.
    pub(super) fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` until this time; nothing when it is past.
    pub(super) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Stamp> for SystemTime {
    fn from(stamp: Stamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_millis(stamp.0)
    }
}

/// The identity of one life of the store, kept as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Incarnation(pub(super) u128);

impl TryFrom<String> for Incarnation {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

impl From<Incarnation> for String {
    fn from(incarnation: Incarnation) -> Self {
        format!("{:032x}", incarnation.0)
    }
}

/// A record with the revision that last put it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stored<T> {
    pub(super) record: T,
    pub(super) revision: Revision,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterRecord {
    pub(super) incarnation: Incarnation,
    pub(super) predecessors: Vec<Incarnation>,
    pub(super) adopt_until: Option<Stamp>,
}

/// What several control planes share of their CA.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorityRecord {
    /// As [`Seal`](crate::identity::Seal) makes it.
    pub(super) sealed: String,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkRecord {
    pub(super) pools: Vec<Pool>,
    pub(super) vni: Vni,
    pub(super) mtu: Option<Mtu>,
    pub(super) backend: Backend,
    pub(super) lease_ttl: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) masquerade: Option<Masquerade>,
    pub(super) created: Stamp,
    /// Its deletion has begun: nothing new is put into it.
    pub(super) deleting: Option<Deletion>,
}

/// What a network's deletion does with what it finds in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deletion {
    /// It is given up: somebody came in before the mark.
    IfEmpty,
    /// It is taken away.
    Forced,
}

impl NetworkRecord {
    pub(super) fn network(&self, id: NetworkId, revision: Revision) -> Network {
        Network {
            id,
            pools: self.pools.clone(),
            vni: self.vni,
            mtu: self.mtu,
            backend: self.backend,
            lease_ttl: self.lease_ttl,
            masquerade: self.masquerade.clone(),
            created: self.created.into(),
            revision: revision.0,
        }
    }

    /// The record of a network as it stands.
    pub(super) fn of(network: &Network, deleting: Option<Deletion>) -> Self {
        Self {
            pools: network.pools.clone(),
            vni: network.vni,
            mtu: network.mtu,
            backend: network.backend,
            lease_ttl: network.lease_ttl,
            masquerade: network.masquerade.clone(),
            created: network.created.into(),
            deleting,
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseRecord {
    pub(super) subnets: Subnets,
    pub(super) endpoint: Endpoint,
    pub(super) epoch: Epoch,
    pub(super) instance: InstanceId,
    pub(super) created: Stamp,
    /// Expired at this time and kept for its node since.
    pub(super) held_since: Option<Stamp>,
    /// In which the node last acquired it.
    pub(super) incarnation: Incarnation,
    /// What the node reached outside of any network when it last acquired it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) underlay: Vec<IpNet>,
}

/// Beside the lease, so that a renewal touches nothing that a watcher sees.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpiryRecord {
    pub(super) expires: Stamp,
}

/// Who may use a slot. A slot without a record is free.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotRecord {
    pub(super) lease: Option<NodeId>,
    pub(super) reserved: Option<NodeId>,
    pub(super) cooling: Option<Cooling>,
}

/// Given back a while ago: only the last holder may have it before the time.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cooling {
    pub(super) until: Stamp,
    pub(super) node: NodeId,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VniRecord {
    /// Whose it is, or was.
    pub(super) network: NetworkId,
    /// The network is gone; free for others at this time.
    pub(super) cooling_until: Option<Stamp>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReservationRecord {
    pub(super) subnets: Subnets,
    pub(super) created: Stamp,
    /// In which it was made; 0 in records from before that was noted.
    #[serde(default)]
    pub(super) incarnation: Incarnation,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestRecord {
    /// What the request made.
    pub(super) made: Made,
    /// Hash of the request's content.
    pub(super) content: String,
    /// Forgotten after this time.
    pub(super) until: Stamp,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Made {
    Network(NetworkId),
    Reservation(LeaseName),
}

/// Whether a node is let in. One without a record is, with any certificate.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityRecord {
    /// Certificates of a lower epoch are refused; new ones have this.
    pub(super) epoch: u32,
    /// In which it may have leases; none: in all.
    pub(super) networks: Option<Vec<NetworkId>>,
    pub(super) standing: Standing,
    /// Since when it stands so.
    pub(super) since: Stamp,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    /// It is let in.
    Member,
    /// It was shut out, and comes back by a token that is for it.
    Revoked,
    /// It is gone; another host may take its name.
    Deleted,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRecord {
    /// SHA-256 of the secret.
    pub(super) secret: String,
    /// The only node that it lets in; none: any new one.
    pub(super) node: Option<NodeId>,
    pub(super) networks: Option<Vec<NetworkId>>,
    /// How many it still lets in.
    pub(super) left: u32,
    pub(super) created: Stamp,
    pub(super) expires: Stamp,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpentRecord {
    pub(super) node: NodeId,
    /// Of the node, then.
    pub(super) epoch: u32,
}

/// The record that serialises changes to the set of networks: it says nothing.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CatalogRecord {}

pub(super) fn encode(record: &impl Serialize) -> Bytes {
    // Invariant: records are structs of strings and numbers, which JSON always takes.
    serde_json::to_vec(record).expect("a record is always JSON").into()
}

pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_makes_a_record_unreadable() {
        assert!(decode::<ExpiryRecord>(br#"{"expires":5}"#).is_ok());
        assert!(decode::<ExpiryRecord>(br#"{"expires":5,"grace":1}"#).is_err());
    }

    #[test]
    fn a_network_without_masquerading_is_written_as_before_there_was_any() {
        let text = r#"{"pools":[],"vni":7,"mtu":null,"backend":"host-gw","lease_ttl":null,"created":5,"deleting":null}"#;
        let record: NetworkRecord = decode(text.as_bytes()).unwrap();
        assert_eq!(record.masquerade, None);
        assert_eq!(encode(&record), text);
    }

    #[test]
    fn a_udp_network_and_its_receivers_are_written_as_ever_after() {
        let text = r#"{"pools":[],"vni":7,"mtu":null,"backend":{"udp":{"port":8285,"device_offload":"tso","single_sends":true,"single_receives":false}},"lease_ttl":null,"created":5,"deleting":null}"#;
        let record: NetworkRecord = decode(text.as_bytes()).unwrap();
        assert_eq!(encode(&record), text);
        let text = r#"{"v4":"192.0.2.1","v6":null,"receivers":[{"udp":{"family":"v4","vni":7,"port":8285,"key":18446744073709551615,"mtu":1460}}]}"#;
        let endpoint: Endpoint = decode(text.as_bytes()).unwrap();
        assert_eq!(encode(&endpoint), text);
        assert!(decode::<Endpoint>(text.replace("18446744073709551615", "0").as_bytes()).is_err());
    }

    #[test]
    fn times_outside_of_the_range_are_cut_to_it() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Stamp::from(before), Stamp(0));
        assert_eq!(Stamp(5).plus(Duration::MAX), Stamp(u64::MAX));
        assert_eq!(Stamp::from(SystemTime::from(Stamp(u64::MAX))), Stamp(u64::MAX));
    }

    #[test]
    fn an_incarnation_is_hexadecimal() {
        assert_eq!(encode(&Incarnation(0xab)), "\"000000000000000000000000000000ab\"");
        assert_eq!(decode::<Incarnation>(b"\"ab\"").unwrap(), Incarnation(0xab));
        assert!(decode::<Incarnation>(b"\"g\"").is_err());
    }
}
