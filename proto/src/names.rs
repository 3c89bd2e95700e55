//! Names of things, and where they stand in resource names (AIP-122).

use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::InvalidValue;
use crate::model::TokenId;

/// Longest DNS label in octets (RFC 1035 §2.3.4).
const LABEL: usize = 63;
/// Longest node or cluster name in octets: a DNS name (RFC 1035 §2.3.4).
const NAME: usize = 253;

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=LABEL).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= NAME && text.split('.').all(is_label)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $valid:path, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                if text.is_empty() {
                    return Err(InvalidValue::new("", "is required"));
                }
                if $valid(text) { Ok(Self(text.into())) } else { Err(InvalidValue::new(text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A network's name: a DNS label.
    NetworkId, is_label,
    "must be a DNS label: 1 to 63 lower-case letters, digits or '-', neither first nor last a '-'"
);
name!(
    /// A node's name, from its certificate: a DNS name.
    NodeId, is_dns_name,
    "must be a DNS name: at most 253 characters, labels of 1 to 63 lower-case letters, digits or '-'"
);
name!(
    /// The cluster's name, the trust domain of its SPIFFE ids: a DNS name.
    ClusterName, is_dns_name,
    "must be a DNS name: at most 253 characters, labels of 1 to 63 lower-case letters, digits or '-'"
);

/// Name of a network in resource names: `networks/{network}`.
#[must_use]
pub fn network(network: &NetworkId) -> String {
    format!("networks/{network}")
}

/// Name of a lease: `networks/{network}/leases/{node}`.
#[must_use]
pub fn lease(network: &NetworkId, node: &NodeId) -> String {
    format!("networks/{network}/leases/{node}")
}

/// Name of a reservation: `networks/{network}/reservations/{node}`.
#[must_use]
pub fn reservation(network: &NetworkId, node: &NodeId) -> String {
    format!("networks/{network}/reservations/{node}")
}

/// Name of a node: `nodes/{node}`.
#[must_use]
pub fn node(node: &NodeId) -> String {
    format!("nodes/{node}")
}

/// Reads `networks/{network}`.
///
/// # Errors
/// When the text has another form or the last part is no DNS label.
pub fn parse_network(text: &str) -> Result<NetworkId, InvalidValue> {
    match parts(text).as_slice() {
        ["networks", network] => network.parse(),
        _ => Err(wrong_form(text, "networks/{network}")),
    }
}

/// Reads `networks/{network}`, or `networks/-` for all of them.
///
/// # Errors
/// As [`parse_network`].
pub fn parse_network_or_all(text: &str) -> Result<Option<NetworkId>, InvalidValue> {
    if text == "networks/-" { Ok(None) } else { parse_network(text).map(Some) }
}

/// Reads `networks/{network}/leases/{node}`.
///
/// # Errors
/// When the text has another form or a part is no valid name.
pub fn parse_lease(text: &str) -> Result<(NetworkId, NodeId), InvalidValue> {
    match parts(text).as_slice() {
        ["networks", network, "leases", node] => Ok((network.parse()?, node.parse()?)),
        _ => Err(wrong_form(text, "networks/{network}/leases/{node}")),
    }
}

/// Reads `networks/{network}/reservations/{node}`.
///
/// # Errors
/// When the text has another form or a part is no valid name.
pub fn parse_reservation(text: &str) -> Result<(NetworkId, NodeId), InvalidValue> {
    match parts(text).as_slice() {
        ["networks", network, "reservations", node] => Ok((network.parse()?, node.parse()?)),
        _ => Err(wrong_form(text, "networks/{network}/reservations/{node}")),
    }
}

/// Name of a token: `tokens/{token}`.
#[must_use]
pub fn token(token: TokenId) -> String {
    format!("tokens/{token}")
}

/// Reads `tokens/{token}`.
///
/// # Errors
/// When the text has another form or the last part is no token's.
pub fn parse_token(text: &str) -> Result<TokenId, InvalidValue> {
    match parts(text).as_slice() {
        ["tokens", token] => token.parse(),
        _ => Err(wrong_form(text, "tokens/{token}")),
    }
}

/// Reads `nodes/{node}`.
///
/// # Errors
/// When the text has another form or the last part is no valid name.
pub fn parse_node(text: &str) -> Result<NodeId, InvalidValue> {
    match parts(text).as_slice() {
        ["nodes", node] => node.parse(),
        _ => Err(wrong_form(text, "nodes/{node}")),
    }
}

fn parts(text: &str) -> Vec<&str> {
    text.split('/').collect()
}

fn wrong_form(text: &str, form: &str) -> InvalidValue {
    if text.is_empty() {
        InvalidValue::new("", "is required")
    } else {
        InvalidValue::new(text, format!("must have the form {form}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names_round_trip() {
        let (blue, seven): (NetworkId, NodeId) = ("blue".parse().unwrap(), "node-7.rack".parse().unwrap());
        assert_eq!(parse_network(&network(&blue)), Ok(blue.clone()));
        assert_eq!(parse_node(&node(&seven)), Ok(seven.clone()));
        assert_eq!(parse_token(&token(TokenId(7))), Ok(TokenId(7)));
        assert_eq!(parse_lease(&lease(&blue, &seven)), Ok((blue.clone(), seven.clone())));
        assert_eq!(parse_reservation(&reservation(&blue, &seven)), Ok((blue, seven)));
    }

    #[test]
    fn names_that_are_no_dns_names_are_refused() {
        for text in ["", "-a", "a-", "A", "a_b", "a b", "ä", "a.b", &"a".repeat(64)] {
            assert!(text.parse::<NetworkId>().is_err(), "{text}");
        }
        for text in ["", ".", "a..b", ".a", "a.", &format!("{}a", "a.".repeat(127))] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_networks_are_a_dash() {
        assert_eq!(parse_network_or_all("networks/-"), Ok(None));
        assert!(parse_network("networks/-").is_err());
        assert!(parse_network("networks/a/b").is_err());
    }
}
