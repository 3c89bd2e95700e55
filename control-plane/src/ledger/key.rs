//! The names of records.
//!
//! ```text
//!  cluster      authority         networks                     network/<network>     vni/<number>
//!  lease/<network>/<node>         expiry/<network>/<node>      slot/<network>/<cidr>
//!  reservation/<network>/<node>   request/<hash of its id>
//!  identity/<node>                token/<id>                   spent/<token>/<hash of a key>
//! ```

use std::fmt::{self, Display, Write};

use ipnet::IpNet;
use loden_proto::model::{LeaseName, TokenId, Vni};
use loden_proto::names::{NetworkId, NodeId};
use sha2::{Digest, Sha256};

use crate::store::Key;

/// Which record.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum RecordKey {
    /// The incarnation.
    Cluster,
    /// The CA that several control planes share.
    Authority,
    /// Rewritten by every change to the set of networks, so that two of them cannot both win.
    Catalog,
    /// One network.
    Network(NetworkId),
    /// The claim to a VNI.
    Vni(Vni),
    /// One lease, without its expiry.
    Lease(LeaseName),
    /// When a lease expires.
    Expiry(LeaseName),
    /// The claim to a slot.
    Slot(NetworkId, IpNet),
    /// One reservation.
    Reservation(LeaseName),
    /// A remembered request, by the hash of its id.
    Request(String),
    /// Whether a node is let in.
    Identity(NodeId),
    /// What lets hosts join.
    Token(TokenId),
    /// Who has joined with a token, by the hash of the key that it has shown.
    Spent(TokenId, String),
}

impl RecordKey {
    /// The record that remembers a request.
    pub(super) fn request(id: &str) -> Self {
        Self::Request(digest(id.as_bytes()))
    }

    /// The record's key in the store.
    pub(super) fn key(&self) -> Key {
        self.to_string().into()
    }

    /// Which record a key names.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
        let parsed = match kind {
            "cluster" => Self::Cluster,
            "authority" => Self::Authority,
            "networks" => Self::Catalog,
            "network" => Self::Network(rest.parse().ok()?),
            "vni" => Self::Vni(rest.parse::<u32>().ok()?.try_into().ok()?),
            "lease" => Self::Lease(lease_name(rest)?),
            "expiry" => Self::Expiry(lease_name(rest)?),
            "reservation" => Self::Reservation(lease_name(rest)?),
            "slot" => {
                let (network, cidr) = rest.split_once('/')?;
                Self::Slot(network.parse().ok()?, cidr.parse().ok()?)
            }
            "request" => Self::Request(rest.to_owned()),
            "identity" => Self::Identity(rest.parse().ok()?),
            "token" => Self::Token(rest.parse().ok()?),
            "spent" => {
                let (token, key) = rest.split_once('/')?;
                Self::Spent(token.parse().ok()?, key.to_owned())
            }
            _ => return None,
        };
        // Two spellings of one name would be two records of one thing.
        Spelling(key).matches(&parsed).then_some(parsed)
    }
}

/// What is left of a text while something is written that should be it: no copy is made to compare them.
struct Spelling<'a>(&'a str);

impl Spelling<'_> {
    fn matches(mut self, written: &impl Display) -> bool {
        write!(self, "{written}").is_ok() && self.0.is_empty()
    }
}

impl Write for Spelling<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

impl Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Authority => f.write_str("authority"),
            Self::Catalog => f.write_str("networks"),
            Self::Network(network) => write!(f, "network/{network}"),
            Self::Vni(vni) => write!(f, "vni/{vni}"),
            Self::Lease(LeaseName { network, node }) => write!(f, "lease/{network}/{node}"),
            Self::Expiry(LeaseName { network, node }) => write!(f, "expiry/{network}/{node}"),
            Self::Slot(network, cidr) => write!(f, "slot/{network}/{cidr}"),
            Self::Reservation(LeaseName { network, node }) => write!(f, "reservation/{network}/{node}"),
            Self::Request(hash) => write!(f, "request/{hash}"),
            Self::Identity(node) => write!(f, "identity/{node}"),
            Self::Token(token) => write!(f, "token/{token}"),
            Self::Spent(token, key) => write!(f, "spent/{token}/{key}"),
        }
    }
}

fn lease_name(text: &str) -> Option<LeaseName> {
    let (network, node) = text.split_once('/')?;
    Some(LeaseName { network: network.parse().ok()?, node: node.parse().ok()? })
}

/// SHA-256 as hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let name = LeaseName { network: "blue".parse().unwrap(), node: "a.rack".parse().unwrap() };
        let keys = [
            RecordKey::Cluster,
            RecordKey::Authority,
            RecordKey::Catalog,
            RecordKey::Network("blue".parse().unwrap()),
            RecordKey::Vni(7.try_into().unwrap()),
            RecordKey::Lease(name.clone()),
            RecordKey::Expiry(name.clone()),
            RecordKey::Slot("blue".parse().unwrap(), "10.244.1.0/24".parse().unwrap()),
            RecordKey::Slot("blue".parse().unwrap(), "2001:db8:0:1::/64".parse().unwrap()),
            RecordKey::Reservation(name),
            RecordKey::request("again"),
            RecordKey::Identity("a.rack".parse().unwrap()),
            RecordKey::Token(TokenId(7)),
            RecordKey::Spent(TokenId(7), digest(b"key")),
        ];
        for key in keys {
            assert_eq!(RecordKey::parse(&key.key()), Some(key));
        }
    }

    #[test]
    fn a_foreign_key_or_another_spelling_names_no_record() {
        for text in [
            "",
            "cluster/",
            "clusters",
            "network/",
            "network/A",
            "vni/0",
            "vni/07",
            "lease/blue",
            "slot/blue/x",
            "slot/blue/10.244.1.0/024",
            "slot/blue/2001:db8:0:1:0::/64",
        ] {
            assert_eq!(RecordKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_names_fit_into_a_key() {
        let label = "a".repeat(63);
        let node = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let name = LeaseName { network: label.parse().unwrap(), node: node.parse().unwrap() };
        assert!(RecordKey::Reservation(name).key().len() <= crate::store::MAX_KEY_BYTES);
    }
}
