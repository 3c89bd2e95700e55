//! A client that opens watches and then reads nothing.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::v1;
use loden_tests::client::raw::{self, AnyBody};
use loden_tests::deployment::Deployment;
use socket2::Socket;
use tokio::task::JoinHandle;

use crate::gate::{Gate, Valve};
use crate::{NETWORK, PATIENCE};

/// What a stuck client leaves unread.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Unread {
    /// Everything: the process might as well be stopped.
    Socket,
    /// The messages of its watch; HTTP/2 itself goes on.
    Stream,
}

/// A connection with watches that nobody reads.
pub(crate) struct Stuck {
    valve: Arc<Valve>,
    connection: JoinHandle<hyper::Result<()>>,
    /// The connection ends when nobody can send on it or reads from it.
    _requests: SendRequest<AnyBody>,
    _watches: Vec<Response<Incoming>>,
}

impl Stuck {
    /// Opens the watches, and reads no more.
    pub(crate) async fn open(
        deployment: &Deployment,
        identity: &Path,
        instance: &str,
        watches: usize,
        unread: Unread,
    ) -> anyhow::Result<Self> {
        let valve = Arc::<Valve>::default();
        let stream = raw::dial(&deployment.control, identity).await?;
        let socket = Socket::from(stream.get_ref().0.as_fd().try_clone_to_owned()?);
        let gate = Gate { stream, valve: Arc::clone(&valve) };
        // Where the socket is what stops it, HTTP/2 lets the server send as much as it likes.
        let window = if unread == Unread::Socket { 1 << 30 } else { 65_535 };
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake(TokioIo::new(gate))
            .await?;
        let connection = tokio::spawn(connection);
        let mut open = Vec::new();
        for _ in 0..watches {
            let message = v1::WatchPeersRequest {
                boot_id: String::new(),
                network: format!("networks/{NETWORK}"),
                resume_token: Vec::new(),
                instance_id: instance.to_owned(),
                seen_token: Vec::new(),
            };
            let body = Full::new(raw::framed(&message)).boxed();
            let response = requests.send_request(raw::call("loden.v1.PeerService/WatchPeers", body)?).await?;
            ensure!(response.status() == 200, "{response:?}");
            open.push(response);
        }
        if unread == Unread::Socket {
            valve.close();
            // Nor shall the kernel take much in our place.
            socket.set_recv_buffer_size(4096)?;
        }
        Ok(Self { valve, connection, _requests: requests, _watches: open })
    }

    /// Reads again: the connection is gone, and not in order.
    pub(crate) async fn was_reset(self) -> anyhow::Result<()> {
        self.valve.open();
        let ended = tokio::time::timeout(PATIENCE, self.connection).await;
        let ended = ended.map_err(|_| anyhow!("the connection still lives"))??;
        ensure!(ended.is_err(), "the connection was closed in order");
        Ok(())
    }
}
