//! A connection with many calls of which nothing comes to an end.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{anyhow, ensure};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::v1;
use loden_tests::client::raw::{self, AnyBody};
use loden_tests::deployment::ControlPlane;
use tokio::task::JoinHandle;

use crate::PATIENCE;

const LIST: &str = "loden.v1.NetworkService/ListNetworks";

/// A connection and its calls, which end with it.
pub(crate) struct Hoard {
    connection: JoinHandle<hyper::Result<()>>,
    calls: JoinHandle<()>,
    begun: Arc<AtomicUsize>,
}

impl Hoard {
    /// Asks for lists, and lets the server send so many bytes of each.
    pub(crate) async fn of_answers(
        control: &ControlPlane,
        identity: &Path,
        window: u32,
        calls: usize,
    ) -> anyhow::Result<Self> {
        let request = v1::ListNetworksRequest { page_size: 1000, page_token: String::new() };
        let request = raw::framed(&request);
        Self::open(control, identity, window, calls, || Full::new(request.clone()).boxed()).await
    }

    /// Sends so many bytes of each request, which was to have one more.
    pub(crate) async fn of_requests(
        control: &ControlPlane,
        identity: &Path,
        bytes: usize,
        calls: usize,
    ) -> anyhow::Result<Self> {
        let whole = raw::framed(&"x".repeat(bytes));
        let half = whole.slice(..whole.len() - 1);
        let body = || {
            let begin = half.clone();
            let begin = stream::once(async { Ok::<_, Infallible>(Frame::data(begin)) });
            AnyBody::new(StreamBody::new(begin.chain(stream::pending())))
        };
        Self::open(control, identity, 65_535, calls, body).await
    }

    async fn open(
        control: &ControlPlane,
        identity: &Path,
        window: u32,
        calls: usize,
        body: impl Fn() -> AnyBody,
    ) -> anyhow::Result<Self> {
        let stream = raw::dial(control, identity).await?;
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .max_concurrent_streams(1000)
            .handshake(TokioIo::new(stream))
            .await?;
        let connection = tokio::spawn(connection);
        let mut open = FuturesUnordered::new();
        for _ in 0..calls {
            open.push(requests.send_request(raw::call(LIST, body())?));
        }
        let begun = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&begun);
        let calls = tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Some(answer) = open.next().await {
                count.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
                answers.push(answer);
            }
            // The connection ends when nobody can send on it or reads from it.
            let _open = (requests, answers);
            std::future::pending::<()>().await;
        });
        Ok(Self { connection, calls, begun })
    }

    /// How many answers have begun.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until the connection is gone, and not in order.
    pub(crate) async fn was_reset(mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(PATIENCE, &mut self.connection).await;
        let ended = ended.map_err(|_| anyhow!("the connection still lives"))??;
        ensure!(ended.is_err(), "the connection was closed in order");
        Ok(())
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        self.calls.abort();
        self.connection.abort();
    }
}
