//! HTTP for those who run the process: `/livez`, `/readyz`, `/metrics`.
//!
//! ```text
//! the process ──watch<Readiness>──▶ /readyz   200 "ready: …" | 503 "not ready: …"
//!             ──Registry──────────▶ /metrics  OpenMetrics text
//!                                   /livez    200 while the runtime turns
//! ```

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::source::{Share, Shares};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// Of them, of one source; more are closed at once.
const CONNECTIONS_OF_SOURCE: usize = 16;
/// How long a connection may take, from its beginning to the end of the answer.
const REQUEST: Duration = Duration::from_secs(5);
/// How long requests may still take once the process is ending.
const DRAIN: Duration = Duration::from_secs(2);
/// Before the next attempt to accept a connection, when one could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// The process's metrics, registered by whoever measures.
pub type Metrics = Arc<Mutex<Registry>>;

/// Whether the process does its job, and why or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// One line for people, without "ready": "3 peers from server".
    pub detail: String,
}

impl Readiness {
    /// It does its job; `detail` says on what ground.
    pub fn yes(detail: impl Into<String>) -> Self {
        Self { ready: true, detail: detail.into() }
    }

    /// It does not; `detail` says why.
    pub fn no(detail: impl Into<String>) -> Self {
        Self { ready: false, detail: detail.into() }
    }
}

/// Serves until `shutdown` resolves. So many connections at once, of all and of
/// one source, each for one request and not longer than it may take: nobody who
/// is not even asked for a certificate can hold descriptors that others need,
/// and no single host can keep the others out.
///
/// # Errors
/// The runtime is not one that has sockets.
pub async fn serve(
    listener: TcpListener,
    readiness: watch::Receiver<Readiness>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.local_addr()?;
    let service = TowerToHyperService::new(routes(readiness, metrics));
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let shares = Shares::default();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits, &shares) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, room)) => {
                let connection = http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service.clone());
                connections.spawn(async move {
                    // Whether a client got its answer is the client's business.
                    let _ = timeout(REQUEST, connection).await;
                    drop(room);
                });
            }
            // No descriptor is left, or the client has gone: neither is for ever.
            Err(_) => sleep(PAUSE).await,
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // Whoever is still not done is cut off.
    let _ = timeout(DRAIN, drained).await;
    Ok(())
}

/// A connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    shares: &Shares,
) -> io::Result<(TcpStream, (OwnedSemaphorePermit, Share))> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        let (stream, remote) = listener.accept().await?;
        if let Some(share) = shares.take(remote.ip().into(), CONNECTIONS_OF_SOURCE) {
            return Ok((stream, (permit, share)));
        }
    }
}

fn routes(readiness: watch::Receiver<Readiness>, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(async || "live\n"))
        .merge(Router::new().route("/readyz", get(readyz)).with_state(readiness))
        .merge(Router::new().route("/metrics", get(exposition)).with_state(metrics))
}

async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    let Readiness { ready, detail } = readiness.borrow().clone();
    if ready {
        (StatusCode::OK, format!("ready: {detail}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {detail}\n"))
    }
}

async fn exposition(State(metrics): State<Metrics>) -> Response {
    let mut text = String::new();
    // A panic elsewhere leaves the registry whole: it is only appended to.
    let encoded = encode(&mut text, &metrics.lock().unwrap_or_else(PoisonError::into_inner));
    match encoded {
        Ok(()) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::sync::oneshot;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_three_paths_tell_life_readiness_and_metrics() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, readiness) = watch::channel(Readiness::no("no peer set yet"));
        let mut registry = Registry::default();
        let passes = Counter::<u64>::default();
        registry.register("passes", "Full passes", passes.clone());
        let metrics = Arc::new(Mutex::new(registry));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, readiness, metrics, async {
            let _ = stopped.await;
        }));

        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("not ready: no peer set yet\n"), "{answer}");

        ready.send_replace(Readiness::yes("3 peers from server"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\nready: 3 peers from server\n"), "{answer}");

        passes.inc_by(7);
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("application/openmetrics-text; version=1.0.0"), "{answer}");
        assert!(answer.contains("passes_total 7\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(fetch(address, "/secrets").await.starts_with("HTTP/1.1 404"));

        // A client that keeps its connection open does not keep the process.
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }

    /// From another loopback address than others.
    async fn connect(host: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn one_host_that_says_nothing_does_not_keep_the_others_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_ready, readiness) = watch::channel(Readiness::yes(""));
        let metrics = Arc::new(Mutex::new(Registry::default()));
        let server = tokio::spawn(serve(listener, readiness, metrics, std::future::pending()));
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(connect(2, address).await);
        }
        let answer = fetch(address, "/livez");
        let answer = timeout(REQUEST / 2, answer).await.expect("one host holds the door");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.abort();
    }

    #[tokio::test]
    async fn whoever_says_nothing_makes_room_for_those_who_ask() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_ready, readiness) = watch::channel(Readiness::yes(""));
        let metrics = Arc::new(Mutex::new(Registry::default()));
        let server = tokio::spawn(serve(listener, readiness, metrics, std::future::pending()));
        let mut silent = Vec::new();
        for number in 0..CONNECTIONS {
            let host = u8::try_from(number / CONNECTIONS_OF_SOURCE).unwrap();
            silent.push(connect(host + 2, address).await);
        }
        let answer = timeout(4 * REQUEST, fetch(address, "/livez")).await.expect("the silent hold the door");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut nothing = [0; 1];
        assert_eq!(silent[0].read(&mut nothing).await.unwrap(), 0, "it is closed");
        server.abort();
    }
}
