//! A control plane in memory that says what the test tells it to say: real
//! tonic on both ends, pipes instead of sockets.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use loden_proto::convert::duration;
use loden_proto::model::{Network, Peer, Subnets};
use loden_proto::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use loden_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, async_trait};
use tower::service_fn;

type Grant = dyn FnMut(&v1::AcquireLeaseRequest) -> Result<v1::AcquireLeaseResponse, Status> + Send;

/// The control plane; clones share it.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<State>,
    watches: mpsc::Sender<Watch>,
}

struct State {
    up: watch::Sender<bool>,
    grant: Mutex<Box<Grant>>,
    refuse_watch: Mutex<Option<Status>>,
    refuse_endpoint: Mutex<Option<Status>>,
    acquires: watch::Sender<Vec<v1::AcquireLeaseRequest>>,
    endpoints: watch::Sender<Vec<v1::Endpoint>>,
    reports: watch::Sender<Vec<v1::ReportStatusRequest>>,
}

/// A watch that an agent has opened, from the server's side.
pub(crate) struct Watch {
    pub(crate) request: v1::WatchPeersRequest,
    messages: mpsc::Sender<Result<v1::WatchPeersResponse, Status>>,
}

impl Watch {
    pub(crate) async fn send(&self, update: Update, token: u8) {
        let resume_token = if token == 0 { Vec::new() } else { vec![token] };
        let message = v1::WatchPeersResponse { update: Some(update), resume_token };
        // An agent that is gone is the test's business.
        let _ = self.messages.send(Ok(message)).await;
    }

    pub(crate) async fn snapshot(&self, network: &Network, peers: &[Peer], adopting: bool, token: u8) {
        let page = v1::SnapshotPage {
            peers: peers.iter().map(Into::into).collect(),
            last: true,
            network: Some(network.into()),
            adopting,
        };
        self.send(Update::Snapshot(page), token).await;
    }

    pub(crate) async fn delta(&self, upserts: &[Peer], removed: &[&str], token: u8) {
        let delta = v1::Delta {
            upserts: upserts.iter().map(Into::into).collect(),
            removed: removed.iter().map(|node| (*node).to_owned()).collect(),
            last: true,
            network: None,
        };
        self.send(Update::Delta(delta), token).await;
    }

    /// The network has changed.
    pub(crate) async fn network(&self, network: &Network, token: u8) {
        let delta = v1::Delta { last: true, network: Some(network.into()), ..v1::Delta::default() };
        self.send(Update::Delta(delta), token).await;
    }

    pub(crate) async fn heartbeat(&self, adopting: bool, token: u8) {
        let interval = Some(duration(Duration::from_secs(3)));
        self.send(Update::Heartbeat(v1::Heartbeat { interval, adopting }), token).await;
    }

    pub(crate) async fn end(self, status: Status) {
        let _ = self.messages.send(Err(status)).await;
    }
}

impl Server {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Watch>) {
        let (watches, opened) = mpsc::channel(16);
        let state = State {
            up: watch::Sender::new(true),
            grant: Mutex::new(Box::new(|_| Err(Status::unavailable("not told what to grant")))),
            refuse_watch: Mutex::new(None),
            refuse_endpoint: Mutex::new(None),
            acquires: watch::Sender::default(),
            endpoints: watch::Sender::default(),
            reports: watch::Sender::default(),
        };
        (Self { state: Arc::new(state), watches }, opened)
    }

    /// A channel to it that connects again and again.
    pub(crate) fn channel(&self) -> Channel {
        let (connections, incoming) = mpsc::channel::<DuplexStream>(4);
        let router = tonic::transport::Server::builder()
            .add_service(LeaseServiceServer::new(self.clone()))
            .add_service(PeerServiceServer::new(self.clone()));
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
        tokio::spawn(router.serve_with_incoming(incoming));
        let up = self.state.up.subscribe();
        let connector = service_fn(move |_| {
            let connections = connections.clone();
            let up = *up.borrow();
            async move {
                if !up {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                connections.send(theirs).await.map_err(io::Error::other)?;
                Ok(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://in-memory").connect_with_connector_lazy(connector)
    }

    /// Refuses every call from now on, or no longer.
    pub(crate) fn up(&self, up: bool) {
        self.state.up.send_replace(up);
    }

    pub(crate) fn grant(
        &self,
        grant: impl FnMut(&v1::AcquireLeaseRequest) -> Result<v1::AcquireLeaseResponse, Status> + Send + 'static,
    ) {
        *self.state.grant.lock().unwrap() = Box::new(grant);
    }

    pub(crate) fn grant_lease(&self, network: &Network, subnets: Subnets, epoch: u64) {
        let network = v1::Network::from(network);
        self.grant(move |request| {
            let lease = v1::Lease {
                name: format!("{}/leases/node-9", network.name),
                subnets: subnets.iter().map(|subnet| subnet.to_string()).collect(),
                endpoint: request.endpoint.clone(),
                epoch,
                ..v1::Lease::default()
            };
            Ok(v1::AcquireLeaseResponse { lease: Some(lease), network: Some(network.clone()) })
        });
    }

    /// Refuses some of what would be granted.
    pub(crate) fn refuse_acquires(
        &self,
        refuse: impl Fn(&v1::AcquireLeaseRequest) -> Option<Status> + Send + 'static,
    ) {
        let mut grant = self.state.grant.lock().unwrap();
        let mut before = std::mem::replace(&mut *grant, Box::new(|_| Err(Status::unavailable("unused"))));
        *grant = Box::new(move |request| refuse(request).map_or_else(|| before(request), Err));
    }

    pub(crate) fn refuse_watches(&self, status: Option<Status>) {
        *self.state.refuse_watch.lock().unwrap() = status;
    }

    pub(crate) fn refuse_endpoints(&self, status: Option<Status>) {
        *self.state.refuse_endpoint.lock().unwrap() = status;
    }

    pub(crate) fn acquires(&self) -> watch::Receiver<Vec<v1::AcquireLeaseRequest>> {
        self.state.acquires.subscribe()
    }

    pub(crate) fn endpoints(&self) -> watch::Receiver<Vec<v1::Endpoint>> {
        self.state.endpoints.subscribe()
    }

    pub(crate) fn reports(&self) -> watch::Receiver<Vec<v1::ReportStatusRequest>> {
        self.state.reports.subscribe()
    }

    fn check(&self) -> Result<(), Status> {
        if *self.state.up.borrow() { Ok(()) } else { Err(Status::unavailable("down")) }
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("agents do not call this"))
}

#[async_trait]
impl LeaseService for Server {
    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        self.check()?;
        let request = request.into_inner();
        let answer = (self.state.grant.lock().unwrap())(&request);
        self.state.acquires.send_modify(|acquires| acquires.push(request));
        answer.map(Response::new)
    }

    async fn renew_lease(&self, _: Request<v1::RenewLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        unused()
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        self.check()?;
        if let Some(status) = self.state.refuse_endpoint.lock().unwrap().clone() {
            return Err(status);
        }
        let endpoint = request.into_inner().endpoint.unwrap();
        self.state.endpoints.send_modify(|endpoints| endpoints.push(endpoint));
        Ok(Response::new(v1::Lease::default()))
    }

    async fn release_lease(&self, _: Request<v1::ReleaseLeaseRequest>) -> Result<Response<()>, Status> {
        unused()
    }

    async fn get_lease(&self, _: Request<v1::GetLeaseRequest>) -> Result<Response<v1::Lease>, Status> {
        unused()
    }

    async fn list_leases(
        &self,
        _: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        unused()
    }

    async fn create_reservation(
        &self,
        _: Request<v1::CreateReservationRequest>,
    ) -> Result<Response<v1::Reservation>, Status> {
        unused()
    }

    async fn list_reservations(
        &self,
        _: Request<v1::ListReservationsRequest>,
    ) -> Result<Response<v1::ListReservationsResponse>, Status> {
        unused()
    }

    async fn delete_reservation(
        &self,
        _: Request<v1::DeleteReservationRequest>,
    ) -> Result<Response<()>, Status> {
        unused()
    }
}

#[async_trait]
impl PeerService for Server {
    type WatchPeersStream = Pin<Box<dyn Stream<Item = Result<v1::WatchPeersResponse, Status>> + Send>>;

    async fn watch_peers(
        &self,
        request: Request<v1::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        self.check()?;
        if let Some(status) = self.state.refuse_watch.lock().unwrap().clone() {
            return Err(status);
        }
        let (messages, stream) = mpsc::channel(16);
        let watch = Watch { request: request.into_inner(), messages };
        self.watches.send(watch).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report_status(
        &self,
        request: Request<v1::ReportStatusRequest>,
    ) -> Result<Response<v1::ReportStatusResponse>, Status> {
        self.check()?;
        self.state.reports.send_modify(|reports| reports.push(request.into_inner()));
        let next_report = Some(duration(Duration::from_secs(5)));
        Ok(Response::new(v1::ReportStatusResponse { next_report, trust_generation: 0 }))
    }
}
