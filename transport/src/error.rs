//! Why there is no channel.

use crate::bundle::BundleError;

/// There is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Our identity cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Our certificate or key is not usable.
    #[error("our certificate cannot be used")]
    Tls(#[from] rustls::Error),
    /// The cluster's name is too long for a DNS name around it.
    #[error("{name:?}, which the server's certificate must carry, is not a DNS name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// There is nothing to dial.
    #[error("no server is given")]
    NoServer,
    /// The user agent has characters that a header may not have.
    #[error("user agent {user_agent:?} is not a header value")]
    UserAgent {
        /// As given.
        user_agent: String,
    },
    /// Nobody answers, or somebody who is not the control plane, or it
    /// refuses us. The text says which.
    #[error("{reason}")]
    Unreachable {
        /// What happened, server by server.
        reason: String,
        /// As reported by the channel; `reason` says all of it.
        error: Box<tonic::transport::Error>,
    },
}

impl ConnectError {
    /// Whether it is the other side's doing: trying again may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
