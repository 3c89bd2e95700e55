//! The client's end: a gRPC channel to the control plane.

use std::time::Duration;

use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::bundle::BundleError;
use crate::connector::Connector;
use crate::credentials::Credentials;
use crate::explain::explain;
use crate::server_address::ServerAddress;

/// How long to wait for what. The defaults are the ones that agents use.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// For the look-up of one server's name, and for TCP and TLS to one of
    /// its addresses. 3 s.
    pub connect_timeout: Duration,
    /// After this time without a frame an HTTP/2 ping is sent, also while
    /// nothing is asked. 5 s.
    pub keep_alive: Duration,
    /// After this time in which nothing came back the connection is dead. 9 s.
    pub silence: Duration,
    /// Sent as `user-agent`: the program and its version.
    pub user_agent: String,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(5),
            silence: Duration::from_secs(9),
            user_agent: concat!("loden/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

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
        /// As reported by the channel.
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether it is the other side's doing: trying again may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A channel that connects at its first call, and again after a loss. A
/// connection goes to the first of `servers` that answers, the next one begins
/// with the server after it. Whatever is dialled, the server's certificate must
/// carry [`control_plane_name`](crate::control_plane_name) and a control
/// plane's SPIFFE id of our cluster.
///
/// # Errors
/// `servers` is empty or the user agent is not valid; what is wrong with the
/// connection comes with each call ([`explain`]).
pub fn connect_lazy(
    servers: &[ServerAddress],
    credentials: &Credentials,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(credentials, options)?;
    Ok(endpoint.connect_with_connector_lazy(connector(servers, credentials, options)?))
}

/// As [`connect_lazy`], connected when it returns.
///
/// # Errors
/// As [`connect_lazy`], and when no server can be reached.
pub async fn connect(
    servers: &[ServerAddress],
    credentials: &Credentials,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(credentials, options)?;
    endpoint
        .connect_with_connector(connector(servers, credentials, options)?)
        .await
        .map_err(|source| ConnectError::Unreachable { reason: explain(&source), source })
}

fn connector(
    servers: &[ServerAddress],
    credentials: &Credentials,
    options: &ConnectOptions,
) -> Result<Connector, ConnectError> {
    if servers.is_empty() {
        return Err(ConnectError::NoServer);
    }
    Ok(Connector::new(servers.to_vec(), credentials.clone(), options.clone()))
}

fn endpoint(credentials: &Credentials, options: &ConnectOptions) -> Result<Endpoint, ConnectError> {
    let name = crate::control_plane_name(&credentials.id().cluster);
    let uri = |scheme| {
        format!("{scheme}://{name}")
            .parse::<Uri>()
            .map_err(|_| ConnectError::ServerName { name: name.clone() })
    };
    // To tonic the connection is plain: TLS is our connector's.
    let endpoint = Endpoint::from(uri("http")?)
        .origin(uri("https")?)
        .http2_keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.silence.saturating_sub(options.keep_alive))
        .keep_alive_while_idle(true)
        .user_agent(options.user_agent.as_str())
        .map_err(|_| ConnectError::UserAgent { user_agent: options.user_agent.clone() })?;
    Ok(endpoint)
}
