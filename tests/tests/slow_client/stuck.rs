//! A client that opens watches and then reads nothing.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::v1;
use loden_tests::deployment::Deployment;
use loden_transport::{Bundle, control_plane_name};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

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
    _requests: SendRequest<Full<Bytes>>,
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
        let bundle = Bundle::read(identity)?;
        let tcp = deployment.control.host.connect(deployment.control.address()).await?;
        let socket = socket2::Socket::from(tcp.as_fd().try_clone_to_owned()?);
        let name = control_plane_name(&bundle.id().cluster);
        let tls = TlsConnector::from(Arc::new(tls(&bundle)?));
        let stream = tls.connect(ServerName::try_from(name.clone())?, tcp).await?;
        let valve = Arc::<Valve>::default();
        let gate = Gate { stream, valve: Arc::clone(&valve) };
        // Where the socket is what stops it, HTTP/2 lets the server send as much as it likes.
        let window = if unread == Unread::Socket { 1 << 30 } else { 65_535 };
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake::<_, Full<Bytes>>(TokioIo::new(gate))
            .await?;
        let connection = tokio::spawn(connection);
        let mut open = Vec::new();
        for _ in 0..watches {
            let message = v1::WatchPeersRequest {
                boot_id: String::new(),
                network: format!("networks/{NETWORK}"),
                resume_token: Vec::new(),
                instance_id: instance.to_owned(),
            };
            let request = Request::post(format!("https://{name}/loden.v1.PeerService/WatchPeers"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(framed(&message)))?;
            let response = requests.send_request(request).await?;
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

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    // A request is short.
    frame.put_u32(message.encoded_len() as u32);
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

fn tls(bundle: &Bundle) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.ca_pem().as_bytes())?)?;
    let chain = vec![CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem().as_bytes())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
