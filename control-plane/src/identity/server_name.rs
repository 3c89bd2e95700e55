//! The names of a server, in its certificate.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use loden_proto::InvalidValue;
use loden_proto::names::ClusterName;
use loden_transport::control_plane_name;
use rustls_pki_types::DnsName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::AuthorityError;

/// A name that a server is dialled by, in its certificate.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ServerName {
    /// A host name.
    Dns(DnsName<'static>),
    /// An address.
    Ip(IpAddr),
}

impl ServerName {
    /// The name that every client verifies.
    pub(super) fn of_cluster(cluster: &ClusterName) -> Result<Self, AuthorityError> {
        let name = control_plane_name(cluster);
        DnsName::try_from(name.clone()).map(Self::Dns).map_err(|_| {
            let rule = format!("is too long: {name} must be a DNS name");
            AuthorityError::Name(InvalidValue::new(cluster, rule).at("cluster"))
        })
    }

    /// All that are in a certificate.
    pub(super) fn all_of(certificate: &X509Certificate<'_>) -> impl Iterator<Item = Self> {
        let extension = certificate.subject_alternative_name().ok().flatten();
        let names = extension.into_iter().flat_map(|extension| &extension.value.general_names);
        names.filter_map(|name| match name {
            GeneralName::DNSName(name) => name.parse().ok(),
            GeneralName::IPAddress(octets) => {
                let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(*octets).map(IpAddr::from);
                v4.or(v6).ok().map(Self::Ip)
            }
            _ => None,
        })
    }
}

impl FromStr for ServerName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        DnsName::try_from(text.to_ascii_lowercase())
            .map(Self::Dns)
            .map_err(|_| InvalidValue::new(text, "must be a DNS name or an IP address"))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name.as_ref()),
            Self::Ip(address) => address.fmt(f),
        }
    }
}
