//! One HTTP GET from inside a namespace, for the operations ports.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::hosts::Namespace;

/// An operations port answers at once or is not well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gets `path` from `address`, seen from `from`; answers the status and the body.
///
/// # Errors
/// When nobody answers within two seconds.
pub async fn get(from: &Namespace, address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    timeout(PATIENCE, exchange(from, address, path))
        .await
        .with_context(|| format!("http://{address}{path} did not answer within {PATIENCE:?}"))?
}

async fn exchange(from: &Namespace, address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = from.connect(address).await.with_context(|| format!("could not connect to {address}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
