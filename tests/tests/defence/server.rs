//! A control plane with the cluster's own certificate that tells its agents whatever the test wants.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::{Stream, stream};
use loden_control_plane::identity::Pki;
use loden_proto::convert::{duration, timestamp};
use loden_proto::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use loden_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self, network::Backend};
use loden_tests::deployment::Deployment;
use loden_transport::server_config;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Response, Status, async_trait, transport};

/// The network that it serves.
pub(crate) const VNI: u32 = 100;
const LEASE: &str = "networks/default/leases/a";

type Messages = mpsc::Receiver<v1::WatchPeersResponse>;

/// What the calls share.
struct State {
    subnet: String,
    messages: Mutex<Option<Messages>>,
    reports: watch::Sender<v1::ReportStatusRequest>,
}

/// The server's end of the one watch there is, and what the agent has reported.
pub(crate) struct Fake {
    messages: mpsc::Sender<v1::WatchPeersResponse>,
    reports: watch::Receiver<v1::ReportStatusRequest>,
    token: u8,
}

impl Fake {
    /// Serves on the control plane's host, in its place. The node `a` is leased `subnet`.
    pub(crate) async fn start(deployment: &Deployment, subnet: &str) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let pki = Pki::open_or_create(&deployment.control.state.join("pki"), &"demo".parse()?, now)?;
        let bundle = pki.server(&"control-plane".parse()?, &[], now)?;
        let acceptor = TlsAcceptor::from(server_config(&bundle)?);
        let socket =
            deployment.control.host.enter(|| std::net::TcpListener::bind(deployment.control.address()))?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;

        let (messages, told) = mpsc::channel(16);
        let (reports, reported) = watch::channel(v1::ReportStatusRequest::default());
        let messages_of = Mutex::new(Some(told));
        let state = Arc::new(State { subnet: subnet.to_owned(), messages: messages_of, reports });
        let serving = transport::Server::builder()
            .add_service(LeaseServiceServer::from_arc(Arc::clone(&state)))
            .add_service(PeerServiceServer::from_arc(state))
            .serve_with_incoming(Box::pin(connections(listener, acceptor)));
        tokio::spawn(serving);
        Ok(Self { messages, reports: reported, token: 0 })
    }

    /// Tells the whole set.
    pub(crate) async fn snapshot(&mut self, peers: Vec<v1::Peer>, adopting: bool) -> anyhow::Result<()> {
        let page = v1::SnapshotPage { peers, last: true, network: Some(network()), adopting };
        self.send(Update::Snapshot(page)).await?;
        // There are no others: the agent shall not think that we are dead.
        let interval = Some(duration(Duration::from_secs(3600)));
        self.send(Update::Heartbeat(v1::Heartbeat { interval, adopting })).await
    }

    /// Tells a change.
    pub(crate) async fn delta(&mut self, upserts: Vec<v1::Peer>, removed: &[&str]) -> anyhow::Result<()> {
        let removed = removed.iter().map(|&node| node.to_owned()).collect();
        self.send(Update::Delta(v1::Delta { upserts, removed, last: true, network: None })).await
    }

    async fn send(&mut self, update: Update) -> anyhow::Result<()> {
        self.token += 1;
        let message = v1::WatchPeersResponse { update: Some(update), resume_token: vec![self.token] };
        self.messages.send(message).await.context("the watch has ended")
    }

    /// Waits until the agent has reported everything that it was told until now, and that it is
    /// ready; answers the report.
    pub(crate) async fn report(&mut self, timeout: Duration) -> anyhow::Result<v1::ReportStatusRequest> {
        let token = vec![self.token];
        let current = self.reports.wait_for(|report| report.applied_token == token && report.ready);
        let report = tokio::time::timeout(timeout, current).await.context("no report")??;
        Ok(report.clone())
    }
}

fn connections(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        let accepted = async {
            let (socket, _) = listener.accept().await?;
            acceptor.accept(socket).await
        };
        Some((accepted.await, (listener, acceptor)))
    })
}

fn network() -> v1::Network {
    v1::Network {
        name: "networks/default".into(),
        pools: vec![v1::Pool { cidr: "10.244.0.0/16".into(), node_prefix_len: Some(24) }],
        vni: Some(VNI),
        backend: Some(Backend::Vxlan(v1::VxlanBackend { port: Some(8472), ..Default::default() })),
        create_time: Some(timestamp(SystemTime::UNIX_EPOCH)),
        revision: 1,
        ..Default::default()
    }
}

impl State {
    fn lease(&self, endpoint: Option<v1::Endpoint>) -> v1::Lease {
        v1::Lease {
            name: LEASE.into(),
            subnets: vec![self.subnet.clone()],
            endpoint,
            epoch: 1,
            state: v1::LeaseState::Active.into(),
            ..Default::default()
        }
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the agent needs it not"))
}

#[async_trait]
impl LeaseService for State {
    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        let lease = self.lease(request.into_inner().endpoint);
        Ok(Response::new(v1::AcquireLeaseResponse { lease: Some(lease), network: Some(network()) }))
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        Ok(Response::new(self.lease(request.into_inner().endpoint)))
    }

    async fn renew_lease(&self, _: Request<v1::RenewLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        not_here()
    }

    async fn release_lease(&self, _: Request<v1::ReleaseLeaseRequest>) -> Result<Response<()>, Status> {
        not_here()
    }

    async fn get_lease(&self, _: Request<v1::GetLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        not_here()
    }

    async fn list_leases(
        &self,
        _: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        not_here()
    }

    async fn create_reservation(
        &self,
        _: Request<v1::CreateReservationRequest>,
    ) -> Result<Response<v1::Reservation>, Status> {
        not_here()
    }

    async fn list_reservations(
        &self,
        _: Request<v1::ListReservationsRequest>,
    ) -> Result<Response<v1::ListReservationsResponse>, Status> {
        not_here()
    }

    async fn delete_reservation(
        &self,
        _: Request<v1::DeleteReservationRequest>,
    ) -> Result<Response<()>, Status> {
        not_here()
    }
}

#[async_trait]
impl PeerService for State {
    type WatchPeersStream = Pin<Box<dyn Stream<Item = Result<v1::WatchPeersResponse, Status>> + Send>>;

    async fn watch_peers(
        &self,
        _: Request<v1::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).take();
        let messages = messages.ok_or_else(|| Status::unavailable("there was a watch already"))?;
        let stream = stream::unfold(messages, |mut messages| async move {
            let message = messages.recv().await?;
            Some((Ok(message), messages))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report_status(
        &self,
        request: Request<v1::ReportStatusRequest>,
    ) -> Result<Response<v1::ReportStatusResponse>, Status> {
        self.reports.send_replace(request.into_inner());
        let next_report = Some(duration(Duration::from_millis(100)));
        Ok(Response::new(v1::ReportStatusResponse { next_report }))
    }
}
