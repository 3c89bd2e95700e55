//! Who may connect to whom, with real TLS on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use loden_transport::{
    Bundle, ConnectOptions, Credentials, HandshakeError, Hello, Holder, Role, ServerAddress, ServerTls,
    SpiffeId, connect, connect_lazy, explain, is_unreachable,
};
use rcgen::{CertificateParams, date_time_ymd};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::pki::{Authority, CLUSTER, SERVER_NAME};

/// A gRPC server that tells who connects; it ends with the test's runtime.
struct Running {
    address: SocketAddr,
    callers: mpsc::Receiver<Option<Holder>>,
    failures: mpsc::Receiver<HandshakeError>,
}

impl Running {
    fn dial(&self) -> ServerAddress {
        self.address.to_string().parse().unwrap()
    }

    async fn caller(&mut self) -> String {
        self.callers.recv().await.unwrap().unwrap().id.to_string()
    }

    /// Whether the next handshake that fails tells of another CA of the cluster.
    async fn hears_of_another_ca(&mut self) -> bool {
        let failure = self.failures.recv().await.unwrap();
        failure.is_of_another_ca(&"demo".parse().unwrap())
    }
}

async fn serve(bundle: &Bundle, accept_http1: bool) -> Running {
    let tls = ServerTls::new(bundle, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connections) = mpsc::channel(8);
    let (seen, callers) = mpsc::channel(8);
    let (failed, failures) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let handshake = async { Hello::of(socket).await?.accept(&tls).await };
            match handshake.await {
                Ok((stream, id)) => {
                    seen.send(id).await.unwrap();
                    accepted.send(Ok::<_, std::io::Error>(stream)).await.unwrap();
                }
                // Nobody may want to know.
                Err(failure) => drop(failed.try_send(failure)),
            }
        }
    });
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().accept_http1(accept_http1).add_service(health);
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
    Running { address, callers, failures }
}

async fn call(channel: Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop)
}

async fn refusal(server: &Running, client: &Bundle) -> String {
    let credentials = Credentials::fixed(client).unwrap();
    connect(&[server.dial()], &credentials, &ConnectOptions::default()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_client_that_has_gone_before_its_turn_is_seen_to_have() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = listener.local_addr().unwrap().to_string().parse().unwrap();
    let credentials = Credentials::fixed(&authority.bundle("node/node-7", &[])).unwrap();
    let client =
        tokio::spawn(async move { connect(&[dial], &credentials, &ConnectOptions::default()).await });
    let hello = Hello::of(listener.accept().await.unwrap().0).await.unwrap();
    assert!(!hello.is_abandoned(), "it waits");
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    let begin = tokio::time::Instant::now();
    while !hello.is_abandoned() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let authority = Authority::new();
    let mut server = serve(&authority.server(), false).await;
    let credentials = Credentials::fixed(&authority.bundle("node/node-7", &[])).unwrap();
    let channel = connect(&[server.dial()], &credentials, &ConnectOptions::default()).await.unwrap();
    call(channel).await.unwrap();
    assert_eq!(server.caller().await, "spiffe://demo/node/node-7");
}

#[tokio::test]
async fn a_client_of_another_ca_learns_why_it_is_refused() {
    let authority = Authority::new();
    let mut server = serve(&authority.server(), false).await;
    for other in [Authority::named("Another CA"), Authority::new()] {
        let (certificate, key) = other.issue(&["spiffe://demo/node/a"], &[], |_| ());
        let client = Bundle::from_pem(authority.pem(), certificate, key).unwrap();
        let message = refusal(&server, &client).await;
        assert!(message.contains("the server refused our certificate: unknown issuer"), "{message}");
        assert!(message.contains(&server.dial().to_string()), "{message}");
        assert!(server.hears_of_another_ca().await, "a node of this cluster");
        let (certificate, key) = other.issue(&["spiffe://other/node/a"], &[], |_| ());
        refusal(&server, &Bundle::from_pem(authority.pem(), certificate, key).unwrap()).await;
        assert!(!server.hears_of_another_ca().await, "another cluster's");
    }
}

#[tokio::test]
async fn a_client_whose_certificate_is_over_or_yet_to_come_learns_why_it_is_refused() {
    let authority = Authority::new();
    let mut server = serve(&authority.server(), false).await;
    let over = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let to_come = |params: &mut CertificateParams| params.not_before = date_time_ymd(3001, 1, 1);
    let uris = ["spiffe://demo/node/a"];
    for (certificate, key) in [authority.issue(&uris, &[], over), authority.issue(&uris, &[], to_come)] {
        let client = Bundle::from_pem(authority.pem(), certificate, key).unwrap();
        let message = refusal(&server, &client).await;
        let told = "the server refused our certificate: it is expired, or the clocks differ";
        assert!(message.contains(told), "{message}");
        assert!(!server.hears_of_another_ca().await);
    }
}

#[tokio::test]
async fn a_server_whose_certificate_is_over_or_yet_to_come_is_refused() {
    let authority = Authority::new();
    let over = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let to_come = |params: &mut CertificateParams| params.not_before = date_time_ymd(3001, 1, 1);
    let uris = ["spiffe://demo/control-plane/cp-1"];
    let names = [SERVER_NAME];
    for (certificate, key) in [authority.issue(&uris, &names, over), authority.issue(&uris, &names, to_come)]
    {
        let bundle = Bundle::from_pem(authority.pem(), certificate, key).unwrap();
        let server = serve(&bundle, false).await;
        let message = refusal(&server, &authority.bundle("node/a", &[])).await;
        assert!(message.contains("we refused the server's certificate"), "{message}");
        assert!(message.contains("is our clock right?"), "{message}");
    }
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let authority = Authority::new();
    for other in [Authority::named("Another CA"), Authority::new()] {
        let mut server = serve(&other.server(), false).await;
        let message = refusal(&server, &authority.bundle("node/a", &[])).await;
        assert!(message.contains("we refused the server's certificate: unknown issuer"), "{message}");
        assert!(server.hears_of_another_ca().await, "the client has told it");
    }
}

#[tokio::test]
async fn a_server_with_another_name_is_refused_whatever_is_dialled() {
    let authority = Authority::new();
    let names = ["control-plane.other.loden", "localhost", "127.0.0.1"];
    let server = serve(&authority.bundle("control-plane/cp-1", &names), false).await;
    let message = refusal(&server, &authority.bundle("node/a", &[])).await;
    assert!(message.contains("we refused the server's certificate"), "{message}");
    assert!(message.contains(SERVER_NAME), "{message}");
}

#[tokio::test]
async fn a_node_cannot_play_the_control_plane_even_with_its_name() {
    let authority = Authority::new();
    let server = serve(&authority.bundle("node/evil", &[SERVER_NAME]), false).await;
    let message = refusal(&server, &authority.bundle("node/a", &[])).await;
    assert!(message.contains("the server is spiffe://demo/node/evil, not the control plane"), "{message}");
}

#[tokio::test]
async fn a_server_certificate_as_client_is_seen_as_the_control_plane() {
    let authority = Authority::new();
    let mut server = serve(&authority.server(), false).await;
    let credentials = Credentials::fixed(&authority.server()).unwrap();
    connect(&[server.dial()], &credentials, &ConnectOptions::default()).await.unwrap();
    let caller: SpiffeId = server.caller().await.parse().unwrap();
    assert!(matches!(caller.role, Role::ControlPlane(name) if name.as_str() == "cp-1"));
}

/// TLS by hand: what the server says to a client that we would never be.
async fn by_hand(server: &Running, config: ClientConfig) -> std::io::Result<u32> {
    let connector = TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut stream = connector.connect(name, socket).await?;
    stream.read_u8().await?;
    Ok(stream.get_ref().1.tls13_tickets_received())
}

fn client_by_hand(
    authority: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
}

fn alert(error: &std::io::Error) -> AlertDescription {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("not an alert: {error:?}"),
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let authority = Authority::new();
    let server = serve(&authority.server(), false).await;
    let config = client_by_hand(&authority, &rustls::version::TLS13).with_no_client_auth();
    let error = by_hand(&server, config).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn a_client_that_speaks_only_tls_1_2_is_refused() {
    let authority = Authority::new();
    let server = serve(&authority.server(), false).await;
    let config = client_by_hand(&authority, &rustls::version::TLS12).with_no_client_auth();
    let error = by_hand(&server, config).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::ProtocolVersion);
}

#[tokio::test]
async fn no_session_ticket_is_given() {
    let authority = Authority::new();
    let server = serve(&authority.server(), false).await;
    let (certificate, key) = authority.issue(&[&format!("{CLUSTER}/node/a")], &[], |_| ());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PemObject::from_pem_slice(key.as_bytes()).unwrap();
    let mut config =
        client_by_hand(&authority, &rustls::version::TLS13).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(by_hand(&server, config).await.unwrap(), 0);
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_the_next_connection_goes_on_from_there() {
    let authority = Authority::new();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_address: ServerAddress = dead.local_addr().unwrap().to_string().parse().unwrap();
    drop(dead);
    let (mut first, mut second) =
        (serve(&authority.server(), false).await, serve(&authority.server(), false).await);
    let servers = [dead_address.clone(), first.dial(), second.dial()];
    let credentials = Credentials::fixed(&authority.bundle("node/a", &[])).unwrap();
    let options = ConnectOptions::default();
    let channel = connect_lazy(&servers, &credentials, &options).unwrap();
    assert!(options.dialled.addresses().is_empty());
    call(channel).await.unwrap();
    assert_eq!(options.dialled.addresses(), ["127.0.0.1".parse().unwrap()].into());
    assert_eq!(first.caller().await, "spiffe://demo/node/a");
    assert!(second.callers.try_recv().is_err());

    let alone = connect_lazy(&[dead_address], &credentials, &ConnectOptions::default()).unwrap();
    let status = call(alone).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(is_unreachable(&status));
    assert!(explain(&status).contains("Connection refused"), "{}", explain(&status));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string().parse().unwrap();
    let credentials = Credentials::fixed(&authority.bundle("node/a", &[])).unwrap();
    let options = ConnectOptions { connect_timeout: Duration::from_millis(100), ..ConnectOptions::default() };
    let error = connect(&[address], &credentials, &options).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 0.1 s"), "{error}");
    assert!(std::error::Error::source(&error).is_none(), "it would be said twice");
}

#[tokio::test]
async fn a_server_that_waits_for_our_first_bytes_is_served_too() {
    let authority = Authority::new();
    let server = serve(&authority.server(), true).await;
    let credentials = Credentials::fixed(&authority.bundle("node/a", &[])).unwrap();
    let channel = connect(&[server.dial()], &credentials, &ConnectOptions::default()).await.unwrap();
    call(channel).await.unwrap();
}

#[tokio::test]
async fn a_new_connection_shows_the_certificate_that_is_on_disk_now() {
    let authority = Authority::new();
    let mut server = serve(&authority.server(), false).await;
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("identity");
    authority.bundle("node/before", &[]).write(&identity).unwrap();
    let credentials = Credentials::watched(&identity).unwrap();
    let options = ConnectOptions::default();

    connect(&[server.dial()], &credentials, &options).await.unwrap();
    assert_eq!(server.caller().await, "spiffe://demo/node/before");

    authority.bundle("node/after", &[]).write(&identity).unwrap();
    connect(&[server.dial()], &credentials, &options).await.unwrap();
    assert_eq!(server.caller().await, "spiffe://demo/node/after");

    std::fs::write(identity.join("tls.crt"), "half a file").unwrap();
    connect(&[server.dial()], &credentials, &options).await.unwrap();
    assert_eq!(server.caller().await, "spiffe://demo/node/after");
}
