//! One connection to whichever replica answers.
//!
//! ```text
//! addresses, in turn ─▶ look up ─▶ TCP ─▶ TLS 1.3 ─▶ is it the control plane? ─▶ has it accepted us? ─▶ HTTP/2
//! ```

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tower::Service;
use tracing::debug;

use crate::credentials::{Caller, Dial};
use crate::options::ConnectOptions;
use crate::origins::Rooted;
use crate::race::race;
use crate::server_address::ServerAddress;
use crate::spiffe::{Role, SpiffeId};
use crate::unreachable::{Attempt, AttemptError, Unreachable};

/// How long a server may wait for our first bytes before it says anything. One
/// that speaks HTTP/2 sends its settings at once (RFC 9113 §3.4).
const ACCEPTANCE: Duration = Duration::from_secs(1);

/// Dials the servers in turn, and not long after one also the next: the first
/// connection goes to the first one that answers, the next connection to the
/// one after it.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Vec<ServerAddress>,
    /// Index of the server to begin with.
    next: AtomicUsize,
    caller: Caller,
    options: ConnectOptions,
}

type Stream = Rooted<TlsStream<TcpStream>>;

impl Connector {
    /// `servers` is not empty.
    pub(crate) fn new(servers: Vec<ServerAddress>, caller: Caller, options: ConnectOptions) -> Self {
        Self { shared: Arc::new(Shared { servers, next: AtomicUsize::new(0), caller, options }) }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is tonic's; where to dial is ours.
    fn call(&mut self, _: Uri) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.dial().await.map(TokioIo::new) })
    }
}

impl Shared {
    async fn dial(&self) -> Result<Stream, Unreachable> {
        let count = self.servers.len();
        let first = self.next.load(Ordering::Relaxed);
        let attempts = (first..first + count).map(|index| index % count).map(async |index| {
            let server = &self.servers[index];
            match self.attempt(server).await {
                Ok(stream) => Ok((index, stream)),
                Err(error) => Err(Attempt { server: server.clone(), error }),
            }
        });
        let (index, stream) = race(attempts).await.map_err(|attempts| Unreachable { attempts })?;
        debug!(server = %self.servers[index], "connected");
        self.next.store((index + 1) % count, Ordering::Relaxed);
        Ok(stream)
    }

    /// Every address of one server, until one answers.
    async fn attempt(&self, server: &ServerAddress) -> Result<Stream, AttemptError> {
        let limit = self.options.connect_timeout;
        let silent = |_| AttemptError::Silent(limit);
        let lookup = lookup_host((server.host(), server.port()));
        let addresses = timeout(limit, lookup).await.map_err(silent)?.map_err(AttemptError::Lookup)?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        self.options.dialled.note(server, addresses.iter().map(SocketAddr::ip));
        let opened = addresses
            .into_iter()
            .map(async |address| timeout(limit, self.open(address)).await.map_err(silent)?);
        race(opened).await.map_err(|mut failures| {
            failures.pop().unwrap_or_else(|| AttemptError::Lookup(io::ErrorKind::NotFound.into()))
        })
    }

    async fn open(&self, address: SocketAddr) -> Result<Stream, AttemptError> {
        let tcp = |source| AttemptError::Tcp { address, source };
        let socket = TcpStream::connect(address).await.map_err(tcp)?;
        self.options.apply(&socket).map_err(tcp)?;
        let local = socket.local_addr().map_err(tcp)?.ip();
        let caller = self.caller.clone();
        // A task that only reads files neither panics nor is cancelled.
        let dial = tokio::task::spawn_blocking(move || caller.dial())
            .await
            .map_err(|error| tcp(io::Error::other(error)))?;
        let connector = TlsConnector::from(Arc::clone(&dial.config));
        let mut stream =
            connector.connect(dial.server_name.clone(), socket).await.map_err(AttemptError::Tls)?;
        check(stream.get_ref().1.peer_certificates(), &dial)?;
        // In TLS 1.3 the server judges our certificate after our handshake is
        // over. Its verdict is waited for here, where it can still be told as
        // what it is, and before bytes of ours could make it get lost.
        match timeout(ACCEPTANCE, stream.fill_buf()).await {
            Ok(Ok([])) => Err(AttemptError::Tls(io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) => Err(AttemptError::Tls(error)),
            Ok(Ok(_)) | Err(_) => Ok(self.options.origins.watch(stream, local)),
        }
    }
}

/// Whether the verified certificate is a control plane's of our cluster.
fn check(certificates: Option<&[CertificateDer<'_>]>, dial: &Dial) -> Result<(), AttemptError> {
    let leaf: &[u8] = certificates.and_then(<[_]>::first).map_or(&[], |leaf| leaf);
    let id = SpiffeId::of_certificate(leaf).map_err(AttemptError::Identity)?;
    if dial.cluster.as_ref().is_none_or(|ours| *ours == id.cluster)
        && matches!(id.role, Role::ControlPlane(_))
    {
        Ok(())
    } else {
        Err(AttemptError::NotControlPlane(id))
    }
}
