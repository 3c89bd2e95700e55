//! Clients that hold connections without using them, or come through a balancer.

mod proxied;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipnet::IpNet;
use loden_transport::{Bundle, ServerTls};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Acceptor, Patience};
use crate::identity::{IssuedRole, Order, Pki, issue};
use crate::knocks::Knocks;
use crate::metrics::Metrics;
use crate::registry::{EndReason, Registry};
use crate::status::Nodes;

/// Longest that a test waits for something that must happen.
const LONG: Duration = Duration::from_secs(20);
/// How long the server's certificate lasts.
const VALIDITY: Duration = Duration::from_secs(3600);
/// What begins HTTP/2: the preface and an empty SETTINGS frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// An acceptor with its own CA, whose service answers everything with nothing.
struct Listening {
    address: SocketAddr,
    registry: Registry,
    metrics: Arc<Metrics>,
    state: TempDir,
    _stop: DropGuard,
}

async fn listen(patience: Patience) -> Listening {
    listen_behind(Vec::new(), patience).await
}

async fn listen_behind(balancers: Vec<IpNet>, patience: Patience) -> Listening {
    let state = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pki = Pki::open_or_create(&state.path().join("pki"), &"loden".parse().unwrap(), now).unwrap();
    let bundle = pki.server(&"control-plane".parse().unwrap(), &[], VALIDITY, now).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (registry, metrics) = (Registry::default(), Arc::new(Metrics::default()));
    let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) };
    let acceptor = Acceptor {
        tls: Arc::new(ArcSwap::from_pointee(ServerTls::new(&bundle, None).unwrap())),
        cluster: "loden".parse().unwrap(),
        knocks: Knocks::default(),
        registry: registry.clone(),
        service: tower::service_fn(answer),
        metrics: Arc::clone(&metrics),
        audit: Arc::default(),
        keeper: None,
        nodes: Nodes::default(),
        tasks: TaskTracker::new(),
        patience,
        balancers,
    };
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(acceptor.run(listener, stop.clone()));
    Listening { address, registry, metrics, state, _stop: stop.drop_guard() }
}

impl Listening {
    /// An authenticated connection that has sent nothing yet.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        secured(tcp, &admin(self.state.path())).await.unwrap()
    }

    /// The reason why the server ends its only connection, once the client sees the end.
    async fn ended(&self, mut connection: TlsStream<TcpStream>) -> EndReason {
        let link = loop {
            // The client's side of the handshake is done first.
            match self.registry.links().pop() {
                Some(link) => break link,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        let read = async { while matches!(connection.read(&mut [0; 1024]).await, Ok(1..)) {} };
        timeout(LONG, read).await.unwrap();
        link.reason().unwrap().clone()
    }
}

fn admin(state: &Path) -> Bundle {
    let order = Order {
        role: IssuedRole::Admin,
        name: "ann".to_owned(),
        out: state.join("admin"),
        validity: Duration::from_secs(3600),
        epoch: 0,
        force: true,
    };
    issue(&state.join("pki"), &order, SystemTime::now()).unwrap()
}

/// A client's TLS on a connection to a server of cluster `loden`.
pub(crate) async fn secured(tcp: TcpStream, bundle: &Bundle) -> io::Result<TlsStream<TcpStream>> {
    let (config, name) = client(bundle);
    TlsConnector::from(config).connect(name, tcp).await
}

fn client(bundle: &Bundle) -> (Arc<ClientConfig>, ServerName<'static>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.ca_pem().as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem().as_bytes()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (Arc::new(config), ServerName::try_from("control-plane.loden.loden").unwrap())
}

/// Opens a connection from an address of loopback and says nothing on it.
async fn half_open(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await
}

impl Listening {
    /// Does a handshake and a call, three times; answers how long they took.
    async fn serves(&self) -> Duration {
        let begin = Instant::now();
        for _ in 0..3 {
            let io = TokioIo::new(self.connect().await);
            let (mut requests, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            let connection = tokio::spawn(connection);
            let uri = "https://control-plane.loden.loden/";
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            assert_eq!(requests.send_request(request).await.unwrap().status(), 200);
            drop(requests);
            connection.await.unwrap().unwrap();
        }
        begin.elapsed()
    }
}

/// Both ends of each connection are in this process.
fn have_many_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

#[tokio::test]
async fn an_address_with_thousands_of_half_open_connections_keeps_nobody_else_out() {
    have_many_descriptors();
    let listening = listen(Patience::default()).await;
    let mut flood = Vec::new();
    while listening.metrics.connections_turned_away.get() == 0 {
        // One that is turned away may be reset before it knows that it is connected.
        flood.extend(half_open("127.0.0.9", listening.address).await);
        assert!(flood.len() < 5000, "one address has no limit");
    }
    assert!(flood.len() > 2000, "{} are too few for a site behind one address", flood.len());
    let took = listening.serves().await;
    assert!(took < Patience::default().handshake, "others waited for the flood: {took:?}");
    assert_eq!(listening.metrics.handshakes_failed.get(), 0, "the flood was still there");
}

#[tokio::test]
async fn ten_thousand_half_open_connections_from_everywhere_keep_nobody_out() {
    have_many_descriptors();
    // They do not give up meanwhile.
    let patience = Patience { handshake: Duration::from_secs(600), ..Patience::default() };
    let listening = listen(patience).await;
    let mut flood = Vec::new();
    for number in 0..10_000 {
        // Whoever is turned away may be reset before it knows that it is connected.
        let Ok(mut one) = half_open(&format!("127.0.9.{}", number % 20), listening.address).await else {
            continue;
        };
        if number % 2 == 0 {
            // As far as to the middle of its first record.
            drop(one.write_all(&[22, 3, 1]).await);
        }
        flood.push(one);
    }
    let took = listening.serves().await;
    assert!(took < Patience::default().handshake, "others waited for the flood: {took:?}");
    assert_eq!(listening.metrics.handshakes_failed.get(), 0, "the flood was still there");
    assert!(listening.metrics.connections_turned_away.get() > 1_800, "so many have made room");
}

#[tokio::test]
async fn a_client_that_stops_within_its_handshake_is_ended() {
    let patience = Patience { handshake: Duration::from_millis(300), ..Patience::default() };
    let listening = listen(patience).await;
    let (config, name) = client(&admin(listening.state.path()));
    let mut hello = Vec::new();
    ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
    for (ended, sent) in (1..).zip([&[][..], &hello[..9], &hello]) {
        let mut slow = half_open("127.0.0.1", listening.address).await.unwrap();
        slow.write_all(sent).await.unwrap();
        let read = async { while matches!(slow.read(&mut [0; 1024]).await, Ok(1..)) {} };
        timeout(LONG, read).await.unwrap();
        while listening.metrics.handshakes_failed.get() < ended {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(listening.metrics.handshakes_failed.get(), 3);
}

#[tokio::test]
async fn a_client_that_does_not_begin_http2_is_ended() {
    let patience = Patience { preface: Duration::from_millis(300), ..Patience::default() };
    for sent in [&[], &PREFACE[..20]] {
        let listening = listen(patience).await;
        let mut mute = listening.connect().await;
        mute.write_all(sent).await.unwrap();
        mute.flush().await.unwrap();
        assert_eq!(listening.ended(mute).await, EndReason::NoPreface { after: patience.preface });
    }
}

#[tokio::test]
async fn a_client_that_is_asked_to_go_and_does_not_is_ended() {
    let patience = Patience {
        age: Duration::from_millis(300),
        staying: Duration::from_millis(300),
        ..Patience::default()
    };
    let listening = listen(patience).await;
    let mut stays = listening.connect().await;
    stays.write_all(PREFACE).await.unwrap();
    assert_eq!(listening.ended(stays).await, EndReason::Stayed { after: patience.staying });
    assert_eq!(listening.metrics.connections_aged.get(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_ended_as_silent() {
    let patience = Patience {
        preface: Duration::from_millis(300),
        keep_alive: Duration::from_millis(400),
        keep_alive_answer: Duration::from_millis(100),
        ..Patience::default()
    };
    let listening = listen(patience).await;
    let mut silent = listening.connect().await;
    silent.write_all(PREFACE).await.unwrap();
    assert_eq!(listening.ended(silent).await, EndReason::Silent);
}
