//! A server on loopback with its own CA, and clients of every role.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self, WatchPeersRequest, WatchPeersResponse};
use loden_transport::{Bundle, ConnectOptions, Credentials, ServerAddress, connect};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::config::Config;
use crate::identity::{IssuedRole, Order, issue};
use crate::server::Server;
use crate::store::MemoryStore;

/// Longest that a test waits for something that must happen.
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) struct Fixture {
    pub(super) server: Server,
    pub(super) store: Arc<MemoryStore>,
    pub(super) state: TempDir,
}

/// Loopback, any port, quick heartbeats; new nodes wait for nobody.
pub(super) fn config(state: &Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        operations: SocketAddr::from(([127, 0, 0, 1], 0)),
        state_dir: state.to_owned(),
        heartbeat: Duration::from_millis(200),
        settle: Duration::ZERO,
        allow_loopback_underlay: true,
        ..Config::default()
    }
}

pub(super) async fn start() -> Fixture {
    start_with(|_| {}).await
}

pub(super) async fn start_with(change: impl FnOnce(&mut Config)) -> Fixture {
    let state = tempfile::tempdir().unwrap();
    let mut config = config(state.path());
    change(&mut config);
    let store = Arc::new(MemoryStore::new());
    let server = Server::start_with(config, Arc::clone(&store)).await.unwrap();
    Fixture { server, store, state }
}

impl Fixture {
    pub(super) async fn channel(&self, role: IssuedRole, name: &str) -> Channel {
        channel(&self.server, self.state.path(), role, name).await
    }

    pub(super) fn bundle(&self, role: IssuedRole, name: &str) -> Bundle {
        bundle(self.state.path(), role, name)
    }

    pub(super) async fn admin(&self) -> Channel {
        self.channel(IssuedRole::Admin, "ann").await
    }

    pub(super) async fn node(&self, name: &str) -> Channel {
        self.channel(IssuedRole::Node, name).await
    }

    /// `GET path` of the operations HTTP.
    pub(super) async fn get(&self, path: &str) -> String {
        get(self.server.operations(), path).await
    }

    /// Polls `/metrics` and `/readyz` until the text appears.
    pub(super) async fn until(&self, path: &str, text: &str) {
        until(self.server.operations(), path, text).await;
    }
}

/// `GET path` of a server's operations HTTP.
pub(super) async fn get(operations: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(operations).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Polls a path of a server's operations HTTP until the text appears.
pub(super) async fn until(operations: SocketAddr, path: &str, text: &str) {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let answer = get(operations, path).await;
        if answer.contains(text) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} never had {text:?}: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn bundle(state: &Path, role: IssuedRole, name: &str) -> Bundle {
    let order = Order {
        role,
        name: name.to_owned(),
        out: state.join(format!("client-{role:?}-{name}")),
        validity: Duration::from_secs(3600),
        epoch: 0,
        force: true,
    };
    issue(&state.join("pki"), &order, SystemTime::now()).unwrap()
}

pub(super) async fn channel(server: &Server, state: &Path, role: IssuedRole, name: &str) -> Channel {
    let credentials = Credentials::fixed(&bundle(state, role, name)).unwrap();
    let address: ServerAddress = server.listen().to_string().parse().unwrap();
    connect(&[address], &credentials, &ConnectOptions::default()).await.unwrap()
}

pub(super) fn network(id: &str, pool: &str) -> v1::Network {
    v1::Network {
        name: format!("networks/{id}"),
        pools: vec![v1::Pool { cidr: pool.to_owned(), node_prefix_len: None }],
        backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend::default())),
        ..Default::default()
    }
}

pub(super) async fn create(admin: &Channel, id: &str, pool: &str) -> v1::Network {
    let request = v1::CreateNetworkRequest { network: Some(network(id, pool)), request_id: String::new() };
    NetworkServiceClient::new(admin.clone()).create_network(request).await.unwrap().into_inner()
}

pub(super) fn endpoint(vni: u32, host: u8) -> v1::Endpoint {
    let vtep = v1::VxlanReceiver {
        family: v1::AddressFamily::Ipv4.into(),
        vni,
        port: 8472,
        mac: format!("02:00:00:00:00:{host:02x}"),
        mtu: 1450,
        gbp: false,
    };
    v1::Endpoint {
        address_v4: format!("192.0.2.{host}"),
        address_v6: String::new(),
        receivers: vec![v1::Receiver { kind: Some(v1::receiver::Kind::Vxlan(vtep)) }],
    }
}

pub(super) fn instance(host: u8) -> String {
    format!("{host:032x}")
}

pub(super) async fn acquire(node: &Channel, network: &v1::Network, host: u8) -> v1::Lease {
    let request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: network.name.clone(),
        instance_id: instance(host),
        claim: Vec::new(),
        endpoint: Some(endpoint(network.vni.unwrap(), host)),
    };
    let answer = LeaseServiceClient::new(node.clone()).acquire_lease(request).await.unwrap();
    answer.into_inner().lease.unwrap()
}

pub(super) async fn watch(
    channel: &Channel,
    network: &str,
    host: Option<u8>,
    resume_token: Vec<u8>,
) -> Result<Streaming<WatchPeersResponse>, tonic::Status> {
    let instance_id = host.map(instance).unwrap_or_default();
    let request = WatchPeersRequest {
        boot_id: String::new(),
        network: network.to_owned(),
        resume_token,
        instance_id,
        seen_token: Vec::new(),
    };
    PeerServiceClient::new(channel.clone()).watch_peers(request).await.map(tonic::Response::into_inner)
}

/// The status that a watch ends with.
pub(super) async fn end(stream: &mut Streaming<WatchPeersResponse>) -> tonic::Status {
    loop {
        match tokio::time::timeout(LONG, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended without a status"),
            Err(status) => break status,
        }
    }
}

/// The next message that is no heartbeat, and its token.
pub(super) async fn next(stream: &mut Streaming<WatchPeersResponse>) -> (Update, Vec<u8>) {
    loop {
        let message = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
        match message.update.unwrap() {
            Update::Heartbeat(_) => {}
            update => return (update, message.resume_token),
        }
    }
}

pub(super) fn nodes(peers: &[v1::Peer]) -> Vec<&str> {
    peers.iter().map(|peer| peer.node.as_str()).collect()
}
