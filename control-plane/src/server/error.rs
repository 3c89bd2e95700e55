//! Why a control plane does not start.

use std::io;
use std::net::SocketAddr;

use loden_transport::ServerConfigError;

use crate::adoption::AdoptionError;
use crate::clerk::ClerkError;
use crate::config::FlagFileError;
use crate::identity::{PkiError, SealError};
use crate::sharing::SharingError;
use crate::store::{EtcdError, OpenError};

/// A control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{flag}: cannot listen on {address}: {source}")]
    Listen {
        /// The flag that says where.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The file of a flag.
    #[error(transparent)]
    File(#[from] FlagFileError),
    /// The file that seals the CA.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The CA that is shared.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The identities.
    #[error("state-dir: {0}")]
    Pki(#[from] PkiError),
    /// The store cannot be opened.
    #[error("state-dir: {0}")]
    Store(#[from] OpenError),
    /// The store in etcd cannot be opened.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The store's contents cannot be used.
    #[error("store: {0}")]
    Clerk(#[from] ClerkError),
    /// The store's life cannot begin.
    #[error("state-dir: {0}")]
    Adoption(#[from] AdoptionError),
    /// The server's own certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] ServerConfigError),
    /// The protocol's descriptors cannot be served.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
