//! The client's end: a gRPC channel to the control plane.

use std::sync::Arc;

use loden_proto::model::RootHash;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::connector::Connector;
use crate::credentials::{Caller, Credentials, Dial};
use crate::error::ConnectError;
use crate::explain::explain;
use crate::options::ConnectOptions;
use crate::server::JOIN_NAME;
use crate::server_address::ServerAddress;

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
    let endpoint = endpoint(&crate::control_plane_name(&credentials.id().cluster), options)?;
    let caller = Caller::Known(credentials.clone());
    Ok(endpoint.connect_with_connector_lazy(connector(servers, caller, options)?))
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
    let name = crate::control_plane_name(&credentials.id().cluster);
    open(servers, &name, Caller::Known(credentials.clone()), options).await
}

/// A channel for somebody who has nothing but a token: it leads to the control
/// plane of the CA whose public key has this hash, and there to Join alone.
///
/// # Errors
/// As [`connect`].
pub async fn connect_joining(
    servers: &[ServerAddress],
    root: RootHash,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    open(servers, JOIN_NAME, Caller::Joining(Arc::new(Dial::pinned(root)?)), options).await
}

async fn open(
    servers: &[ServerAddress],
    name: &str,
    caller: Caller,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    endpoint(name, options)?
        .connect_with_connector(connector(servers, caller, options)?)
        .await
        .map_err(|error| ConnectError::Unreachable { reason: explain(&error), error: Box::new(error) })
}

fn connector(
    servers: &[ServerAddress],
    caller: Caller,
    options: &ConnectOptions,
) -> Result<Connector, ConnectError> {
    if servers.is_empty() {
        return Err(ConnectError::NoServer);
    }
    Ok(Connector::new(servers.to_vec(), caller, options.clone()))
}

/// `name` is in every request.
fn endpoint(name: &str, options: &ConnectOptions) -> Result<Endpoint, ConnectError> {
    let uri = |scheme| {
        format!("{scheme}://{name}")
            .parse::<Uri>()
            .map_err(|_| ConnectError::ServerName { name: name.to_owned() })
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
