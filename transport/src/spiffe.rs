//! Who a certificate says its owner is: `spiffe://<cluster>/<role>/<name>`.

use std::fmt;
use std::str::FromStr;

use loden_proto::InvalidValue;
use loden_proto::names::{ClusterName, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

const SCHEME: &str = "spiffe://";

/// An identity within a cluster.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SpiffeId {
    /// The cluster: the SPIFFE trust domain.
    pub cluster: ClusterName,
    /// What the owner is in it.
    pub role: Role,
}

/// What the owner of a certificate is, and its name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// A host that runs an agent: `node/<id>`.
    Node(NodeId),
    /// An operator: `admin/<name>`.
    Admin(Principal),
    /// Somebody who may only look: `reader/<name>`.
    Reader(Principal),
    /// A replica of the control plane: `control-plane/<name>`.
    ControlPlane(Principal),
}

/// The name of somebody who is not a node: one segment of a SPIFFE path, 1 to
/// 63 of letters, digits, `.`, `-` and `_`, and not only dots.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Principal(String);

impl Principal {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Principal {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let valid =
            (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.bytes().all(|c| c == b'.');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(
                text,
                "must be 1 to 63 letters, digits, '.', '-' or '_', and not only dots",
            ))
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Admin(name) => write!(f, "admin/{name}"),
            Self::Reader(name) => write!(f, "reader/{name}"),
            Self::ControlPlane(name) => write!(f, "control-plane/{name}"),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role)
    }
}

/// A certificate or a URI does not say who its owner is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    /// Not exactly one URI among the certificate's names.
    #[error("the certificate names {0} URIs; exactly one is required, spiffe://<cluster>/<role>/<name>")]
    UriCount(usize),
    /// A URI of another shape.
    #[error("{uri:?} is not spiffe://<cluster>/<role>/<name> with role node, admin, reader or control-plane")]
    Shape {
        /// The URI as found.
        uri: String,
    },
    /// The cluster or the name breaks its rule.
    #[error("{uri:?}: {part} {reason}")]
    Part {
        /// The URI as found.
        uri: String,
        /// `cluster` or `name`.
        part: &'static str,
        /// Value and rule.
        reason: InvalidValue,
    },
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let shape = || IdentityError::Shape { uri: uri.to_owned() };
        let part = |part| move |reason| IdentityError::Part { uri: uri.to_owned(), part, reason };
        let path = uri.strip_prefix(SCHEME).ok_or_else(shape)?;
        let [cluster, role, name] = path.splitn(3, '/').collect::<Vec<_>>()[..] else {
            return Err(shape());
        };
        let cluster = cluster.parse().map_err(part("cluster"))?;
        let principal = || name.parse::<Principal>().map_err(part("name"));
        let role = match role {
            "node" => Role::Node(name.parse().map_err(part("name"))?),
            "admin" => Role::Admin(principal()?),
            "reader" => Role::Reader(principal()?),
            "control-plane" => Role::ControlPlane(principal()?),
            _ => return Err(shape()),
        };
        Ok(Self { cluster, role })
    }
}

impl SpiffeId {
    /// The identity in an X.509 certificate (DER): its one URI among the
    /// subject's alternative names (X509-SVID §2).
    ///
    /// # Errors
    /// Not a certificate, not exactly one URI, or a URI of another shape.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let unparsable = |error: &dyn fmt::Display| IdentityError::Certificate(error.to_string());
        let (_, certificate) = parse_x509_certificate(der).map_err(|error| unparsable(&error))?;
        let names = certificate.subject_alternative_name().map_err(|error| unparsable(&error))?;
        let uris: Vec<_> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else { return Err(IdentityError::UriCount(uris.len())) };
        uri.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for uri in [
            "spiffe://demo/node/node-7.example.org",
            "spiffe://prod.example.org/admin/Jo_Doe",
            "spiffe://demo/reader/grafana",
            "spiffe://demo/control-plane/cp-1",
        ] {
            assert_eq!(uri.parse::<SpiffeId>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn other_uris_are_refused_by_name() {
        let cases = [
            ("https://demo/node/a", "is not spiffe://<cluster>/<role>/<name>"),
            ("spiffe://demo", "is not spiffe://<cluster>/<role>/<name>"),
            ("spiffe://demo/king/a", "is not spiffe://<cluster>/<role>/<name>"),
            ("spiffe://demo/node/", "name is required"),
            ("spiffe://demo/node/a/b", "name \"a/b\" must be"),
            ("spiffe://demo/admin/a/b", "name \"a/b\" must be"),
            ("spiffe://demo/admin/..", "name \"..\" must be"),
            ("spiffe://DEMO/admin/a", "cluster \"DEMO\" must be"),
            ("spiffe:///admin/a", "cluster is required"),
        ];
        for (uri, expected) in cases {
            let message = uri.parse::<SpiffeId>().unwrap_err().to_string();
            assert!(message.contains(expected), "{uri}: {message}");
        }
    }
}
