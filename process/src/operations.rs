//! HTTP for those who run the process: `/livez`, `/readyz`, `/metrics`.
//!
//! ```text
//! the process ──watch<Readiness>──▶ /readyz   200 "ready: …" | 503 "not ready: …"
//!             ──Registry──────────▶ /metrics  OpenMetrics text
//!                                   /livez    200 while the runtime turns
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve as serve_http};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long requests may still take once the process is ending.
const DRAIN: Duration = Duration::from_secs(2);

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

/// Serves until `shutdown` resolves.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    readiness: watch::Receiver<Readiness>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (ending, mut ended) = watch::channel(());
    let server = serve_http(listener, routes(readiness, metrics)).with_graceful_shutdown(async move {
        shutdown.await;
        drop(ending);
    });
    let late = async move {
        // Resolves with an error once `ending` is dropped: the drain begins.
        let _ = ended.changed().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => result,
        () = late => Ok(()),
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
    use tokio::net::TcpStream;
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
}
