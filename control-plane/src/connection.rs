//! Connections: accepted, authenticated, served, ended.
//!
//! ```text
//! TCP ──admission──▶ ClientHello, TLS 1.3 handshake (5 s each) ──▶ Client ──▶ Link in the registry
//!                                                               │
//!    HTTP/2 (hyper), preface within 5 s ◀── each request carries its Link
//!      ends: by itself · Link::end (reset at once) · draining (GOAWAY, then gone)
//! ```
//!
//! We serve connections ourselves, because a client that reads nothing can only be ended by its connection.

mod admission;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use loden_process::source::Source;
use loden_proto::names::ClusterName;
use loden_transport::{HandshakeError, Hello, ServerTls};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, info, warn};

use self::admission::{Admission, Limits, Place};
use self::stream::Watched;
use crate::audit::Audit;
use crate::gate::Keeper;
use crate::knocks::Knocks;
use crate::metrics::Metrics;
use crate::registry::{Client, EndReason, Link, Registry};
use crate::status::Nodes;

/// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7)).
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// What hyper holds per stream for a client that does not read, in bytes.
const SEND_BUFFER: usize = 32 << 10;
/// What a connection may send before we have read it, in bytes: a large request.
const RECEIVE_WINDOW: u32 = 256 << 10;
/// Headers of one request, in bytes; gRPC needs a tenth of it.
const HEADERS: u32 = 4 << 10;
/// Streams of one connection at once.
const STREAMS: u32 = 256;
/// How long accepting pauses when the system refuses, for instance without descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long is waited for clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a connection may wait for its turn: clients have given up by then.
    wait: Duration,
    /// How long a client may take to begin its handshake, and how long that may take.
    handshake: Duration,
    /// How long a client may take to begin HTTP/2; only then can it be pinged.
    preface: Duration,
    /// After this time without a frame a ping is sent (HTTP/2, RFC 9113 §6.7).
    keep_alive: Duration,
    /// How long the answer to a ping may take.
    keep_alive_answer: Duration,
    /// How long a host without a certificate may stay.
    joining: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
            preface: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            keep_alive_answer: Duration::from_secs(10),
            joining: Duration::from_secs(30),
        }
    }
}

/// Accepts and serves connections.
pub(crate) struct Acceptor<S> {
    /// Swapped when the certificate is renewed; connections keep theirs.
    pub(crate) tls: Arc<ArcSwap<ServerTls>>,
    pub(crate) cluster: ClusterName,
    pub(crate) knocks: Knocks,
    pub(crate) registry: Registry,
    pub(crate) service: S,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Arc<Audit>,
    /// Who was shut out while its handshake went on is ended at once.
    pub(crate) keeper: Option<Keeper>,
    pub(crate) nodes: Nodes,
    pub(crate) tasks: TaskTracker,
    pub(crate) patience: Patience,
}

impl<S, B> Acceptor<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Accepts until `stop`; connections live on.
    pub(crate) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let this = Arc::new(self);
        let admission = Admission::new(Limits::default());
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (tcp, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = admission.enter(remote.ip()) else {
                // Best effort: without it the close is orderly, and the kernel remembers it for a minute.
                let _ = tcp.set_zero_linger();
                this.turned_away(remote);
                continue;
            };
            let task = Arc::clone(&this);
            let stop = stop.clone();
            this.tasks.spawn(async move {
                // Who is still waiting when we stop is let go.
                if let Some(Some((stream, client))) =
                    stop.run_until_cancelled(task.authenticate(tcp, remote, place)).await
                {
                    task.serve(stream, client, remote).await;
                }
            });
        }
    }

    /// Counts a connection that is closed at once: too many others are there.
    fn turned_away(&self, remote: SocketAddr) {
        self.metrics.connections_turned_away.inc();
        debug!(%remote, "turned away: too many connections are not through with their handshake");
    }

    /// Does the connection's handshake in its turn.
    async fn authenticate(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        place: Place,
    ) -> Option<(TlsStream<TcpStream>, Client)> {
        match place.lost.run_until_cancelled(self.handshake(tcp, remote, &place)).await {
            Some(Ok(authenticated)) => return Some(authenticated),
            Some(Err(Unauthenticated::Refused(error))) => self.refused(remote, &error),
            Some(Err(Unauthenticated::Waited)) | None => self.turned_away(remote),
        }
        None
    }

    fn refused(&self, remote: SocketAddr, error: &HandshakeError) {
        self.metrics.handshakes_failed.inc();
        if error.is_of_another_ca(&self.cluster) {
            self.knocks.knock(remote, Instant::now());
        }
        if error.is_refusal() {
            self.audit.turned_away(remote, error.shown(), "handshake", "", &error.to_string());
        }
        debug!(%remote, %error, "TLS handshake failed");
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        place: &Place,
    ) -> Result<(TlsStream<TcpStream>, Client), Unauthenticated> {
        // Best effort: whoever is let go in the middle is reset, so that the kernel does not remember it for a minute.
        let _ = tcp.set_zero_linger();
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        let hello = timeout(self.patience.handshake, Hello::of(tcp)).await.map_err(io::Error::from)??;
        let turn = timeout(self.patience.wait, place.turn()).await;
        let _turn = turn.map_err(|_| Unauthenticated::Waited)?;
        let tls = self.tls.load_full();
        let accepted = timeout(self.patience.handshake, hello.accept(&tls)).await;
        let (stream, holder) = accepted.map_err(io::Error::from)??;
        SockRef::from(stream.get_ref().0).set_linger(None)?;
        Ok((stream, holder.map_or_else(|| Client::Joining(Source::from(remote.ip())), Client::Holder)))
    }

    async fn serve(&self, stream: TlsStream<TcpStream>, client: Client, remote: SocketAddr) {
        let link = self.registry.open(client, remote);
        self.metrics.connections_opened.inc();
        // From here on whoever shuts it out finds the link.
        if let Some(reason) =
            self.keeper.as_ref().and_then(|keeper| keeper.ends(&link.client, SystemTime::now()))
        {
            link.end(reason);
        }
        if link.client.id().is_some() {
            self.audit.let_in(&link);
        }
        debug!(client = %link.client, %remote, "connected");
        let reset = Arc::new(AtomicBool::new(false));
        let begun = CancellationToken::new();
        let stream = Watched::new(stream, Arc::clone(&reset), begun.clone());
        let service = WithLink { service: self.service.clone(), link: Arc::clone(&link) };
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let connection = http2::Builder::new(UntilGone(gone))
            .timer(TokioTimer::new())
            .keep_alive_interval(self.patience.keep_alive)
            .keep_alive_timeout(self.patience.keep_alive_answer)
            .max_send_buf_size(SEND_BUFFER)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .max_header_list_size(HEADERS)
            .max_concurrent_streams(STREAMS)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let mut late = pin!(begun.run_until_cancelled(sleep(self.patience.preface)));
        let mut lingers = pin!(sleep(self.patience.joining));
        let joins = link.client.id().is_none();
        let mut waiting = true;
        let mut draining = false;
        let why = loop {
            tokio::select! {
                biased;
                () = link.ended().cancelled() => {
                    // What the client has not read would stay in the kernel after an orderly close.
                    reset.store(true, Ordering::Relaxed);
                    break link.reason().map(ToString::to_string).unwrap_or_default();
                }
                result = connection.as_mut() => break match result {
                    Ok(()) if draining => "the server shut down".to_owned(),
                    Ok(()) => "the client closed the connection".to_owned(),
                    Err(error) if is_timeout(&error) => {
                        link.end(EndReason::Silent);
                        EndReason::Silent.to_string()
                    }
                    Err(error) => format!("the connection was lost: {}", root_cause(&error)),
                },
                late = late.as_mut(), if waiting => {
                    waiting = false;
                    if late.is_some() {
                        link.end(EndReason::NoPreface { after: self.patience.preface });
                    }
                }
                () = lingers.as_mut(), if joins && link.reason().is_none() => {
                    link.end(EndReason::Joining { after: self.patience.joining });
                }
                () = link.draining().cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        match link.reason() {
            Some(reason) => {
                self.metrics.ended(reason);
                info!(client = %link.client, %remote, %reason, "connection ended");
            }
            None => debug!(client = %link.client, %remote, %why, "disconnected"),
        }
        if let Some(node) = link.client.node() {
            self.nodes.connection_ended(node, &why);
        }
    }
}

/// Why a connection has no client.
enum Unauthenticated {
    Refused(HandshakeError),
    /// Its turn did not come.
    Waited,
}

impl<E: Into<HandshakeError>> From<E> for Unauthenticated {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Whether a ping (HTTP/2) or sent bytes (TCP) were not answered in time.
fn is_timeout(error: &hyper::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    let timed_out = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    error.is_timeout() || causes.any(|cause| cause.downcast_ref().is_some_and(timed_out))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Runs a connection's stream tasks no longer than the connection.
#[derive(Clone)]
struct UntilGone(CancellationToken);

impl<F> Executor<F> for UntilGone
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(stream));
    }
}

/// Puts the connection's [`Link`] into each request.
#[derive(Clone)]
struct WithLink<S> {
    service: S,
    link: Arc<Link>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for WithLink<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.link));
        self.service.call(request)
    }
}
