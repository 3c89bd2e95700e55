//! A connection of one member: TLS and HTTP/2 as an agent has them, without what an agent's channel has around
//! them to find servers and to come back. A swarm shares its processors with the server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use loden_transport::{Bundle, ServerAddress, control_plane_name};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::client::raw;

/// How long a connection may take, as an agent's.
const CONNECT: Duration = Duration::from_secs(3);
/// After this time without a frame a ping is sent, as an agent does.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long its answer may take.
const ANSWER: Duration = Duration::from_secs(4);

/// Who a member is, and where it connects to.
#[derive(Clone)]
pub(super) struct Dialler {
    tls: TlsConnector,
    name: ServerName<'static>,
    server: ServerAddress,
}

/// An open connection; generated clients call over it.
#[derive(Clone)]
pub(super) struct Wire(SendRequest<Body>);

impl Dialler {
    pub(super) fn new(bundle: &Bundle, server: &ServerAddress) -> anyhow::Result<Self> {
        let name = ServerName::try_from(control_plane_name(&bundle.id().cluster))?;
        let tls = TlsConnector::from(Arc::new(raw::tls(bundle)?));
        Ok(Self { tls, name, server: server.clone() })
    }

    /// Connects.
    pub(super) async fn dial(&self) -> anyhow::Result<Wire> {
        let tls = async {
            let tcp = TcpStream::connect((self.server.host(), self.server.port())).await?;
            tcp.set_nodelay(true)?;
            self.tls.connect(self.name.clone(), tcp).await
        };
        let tls = timeout(CONNECT, tls).await.context("the server does not answer")??;
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(ANSWER)
            .keep_alive_while_idle(true);
        let (requests, connection) = http.handshake(TokioIo::new(tls)).await?;
        // Its calls tell of its end.
        tokio::spawn(connection);
        Ok(Wire(requests))
    }
}

/// What the calls' paths stand behind.
pub(super) fn origin() -> Uri {
    Uri::from_static("https://control-plane")
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
