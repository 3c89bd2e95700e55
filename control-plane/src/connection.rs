//! Connections: accepted, authenticated, served, ended.
//!
//! ```text
//! TCP ──admission──▶ (header of a balancer) ──▶ ClientHello, TLS 1.3 handshake (5 s each) ──▶ Client ──▶ Link in the registry
//!                                                               │
//!    HTTP/2 (hyper), preface within 5 s ◀── each request carries its Link
//!      ends: by itself · Link::end (reset at once) · Link::drain (GOAWAY, then gone, or reset after 10 s)
//! ```
//!
//! We serve connections ourselves, because a client that reads nothing can only be ended by its connection.

mod admission;
mod patience;
mod proxy;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod times;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
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
use ipnet::IpNet;
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
use tracing::field::display;
use tracing::{debug, info, warn};

pub(crate) use self::patience::Patience;

use self::admission::{Admission, Limits, Place};
use self::proxy::{HeaderError, Origin};
use self::stream::Watched;
use self::times::{Due, Times};
use crate::audit::Audit;
use crate::gate::Keeper;
use crate::knocks::Knocks;
use crate::metrics::Metrics;
use crate::registry::{Client, EndReason, Link, Parting, Registry};
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
    /// Whose connections say first from where they come.
    pub(crate) balancers: Vec<IpNet>,
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
            let (mut tcp, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let entered = match this.is_balancer(remote) {
                true => admission.enter_balancer(remote.ip()),
                false => admission.enter(remote.ip()),
            };
            let Some(place) = entered else {
                // Best effort: without it the close is orderly, and the kernel remembers it for a minute.
                let _ = tcp.set_zero_linger();
                this.turned_away(remote);
                continue;
            };
            let task = Arc::clone(&this);
            let stop = stop.clone();
            this.tasks.spawn(async move {
                // Who is still waiting when we stop is let go. Boxed, so that what a handshake takes does not stay as
                // long as the connection.
                let admitted = Box::pin(stop.run_until_cancelled(async {
                    let (remote, place) = task.introduced(&mut tcp, remote, place).await?;
                    let (stream, client) = task.authenticate(tcp, remote, place).await?;
                    Some((Box::new(stream), client, remote))
                }));
                if let Some(Some((stream, client, remote))) = admitted.await {
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

    fn is_balancer(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.balancers.iter().any(|network| network.contains(&address))
    }

    /// From where a connection comes, and its place among those from there. What is a balancer's says it first.
    async fn introduced(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
        place: Place,
    ) -> Option<(SocketAddr, Place)> {
        if !self.is_balancer(peer) {
            return Some((peer, place));
        }
        // As in the handshake.
        let _ = tcp.set_zero_linger();
        let remote = match place.lost.run_until_cancelled(self.header(tcp)).await {
            Some(Ok(Origin::Client(client))) => client,
            Some(Ok(Origin::Balancer)) => peer,
            Some(Err(error)) => {
                self.metrics.handshakes_failed.inc();
                if let HeaderError::Refused(refusal) = &error {
                    self.audit.turned_away(peer, None, "handshake", "", &refusal.to_string());
                }
                debug!(%peer, %error, "a balancer does not say from where a connection comes");
                return None;
            }
            None => {
                self.turned_away(peer);
                return None;
            }
        };
        let moved = place.moved(remote.ip());
        if moved.is_none() {
            self.turned_away(remote);
        }
        moved.map(|place| (remote, place))
    }

    async fn header(&self, tcp: &mut TcpStream) -> Result<Origin, HeaderError> {
        timeout(self.patience.handshake, proxy::read(tcp)).await.map_err(io::Error::from)?
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
        // Where thousands come back at once, many have given up before their turn.
        if hello.is_abandoned() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        let tls = self.tls.load_full();
        let accepted = timeout(self.patience.handshake, hello.accept(&tls)).await;
        let (stream, holder) = accepted.map_err(io::Error::from)??;
        SockRef::from(stream.get_ref().0).set_linger(None)?;
        Ok((stream, holder.map_or_else(|| Client::Joining(Source::from(remote.ip())), Client::Holder)))
    }

    /// Serves a connection to its end. What is large is in a box of its own: a future keeps room for each of its
    /// arguments beside what it makes of them, for as long as it lives.
    async fn serve(&self, stream: Box<TlsStream<TcpStream>>, client: Client, remote: SocketAddr) {
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
            // Another one each second would fill each connection's table of headers; nobody reads it.
            .auto_date_header(false)
            .keep_alive_interval(self.patience.keep_alive)
            .keep_alive_timeout(self.patience.keep_alive_answer)
            .max_send_buf_size(SEND_BUFFER)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .max_header_list_size(HEADERS)
            .max_concurrent_streams(STREAMS)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = Box::pin(connection);
        let joins = link.client.id().is_none();
        let mut times = Times::of(&self.patience, joins, rand::random(), Instant::now());
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
                    Ok(()) => link.parting().map_or_else(
                        || "the client closed the connection".to_owned(),
                        |parting| parting.to_string(),
                    ),
                    Err(error) if is_timeout(&error) => {
                        link.end(EndReason::Silent);
                        EndReason::Silent.to_string()
                    }
                    Err(error) => format!("the connection was lost: {}", root_cause(&error)),
                },
                () = link.draining().cancelled(), if !draining => {
                    draining = true;
                    times.asked(&self.patience, Instant::now());
                    let why = link.parting().map(display);
                    debug!(client = %link.client, %remote, why, "asked to go");
                    connection.as_mut().graceful_shutdown();
                }
                due = times.next() => self.overdue(due, &link, begun.is_cancelled()),
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

    fn overdue(&self, due: Due, link: &Link, begun: bool) {
        let Patience { preface, joining, staying, .. } = self.patience;
        match due {
            Due::Preface if begun => {}
            Due::Preface => link.end(EndReason::NoPreface { after: preface }),
            Due::Joining => link.end(EndReason::Joining { after: joining }),
            Due::Age => {
                if link.drain(Parting::Aged) {
                    self.metrics.connections_aged.inc();
                }
            }
            Due::Stay => link.end(EndReason::Stayed { after: staying }),
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
