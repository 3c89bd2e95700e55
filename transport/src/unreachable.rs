//! Why no replica could be reached, one by one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::server_address::ServerAddress;
use crate::spiffe::{IdentityError, SpiffeId};
use crate::tls_reason::tls_reason;

/// No replica could be reached; why not, one by one.
#[derive(Debug)]
pub struct Unreachable {
    /// The attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// One failed attempt.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {error}")]
pub struct Attempt {
    /// What was dialled.
    pub server: ServerAddress,
    /// What went wrong.
    pub error: AttemptError,
}

/// Why a server could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The name has no address.
    #[error("the name cannot be looked up: {0}")]
    Lookup(io::Error),
    /// TCP failed.
    #[error("{address}: {source}")]
    Tcp {
        /// The address dialled.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came within the time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// TLS failed, here or there.
    #[error("{}", tls_reason(.0))]
    Tls(io::Error),
    /// The certificate does not say whose it is.
    #[error("the server's certificate: {0}")]
    Identity(IdentityError),
    /// A certificate of our CA, but not a control plane's.
    #[error("the server is {0}, not the control plane of our cluster")]
    NotControlPlane(SpiffeId),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the control plane cannot be reached: ")?;
        for (index, attempt) in self.attempts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{attempt}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}
