//! A control plane with the cluster's own certificate that tells one agent whatever it is told to.
//!
//! ```text
//!  test, benchmark ─▶ snapshot, delta ─▶ the agent's newest watch;  what the agent reports ─▶ test, benchmark
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::{Stream, stream};
use loden_control_plane::identity::Pki;
use loden_proto::convert::{duration, timestamp};
use loden_proto::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use loden_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self, network::Backend};
use loden_transport::ServerTls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Response, Status, async_trait, transport};

use crate::client;
use crate::deployment::Deployment;

const LEASE: &str = "networks/default/leases/a";
/// Messages that wait for the agent.
const WAITING: usize = 16;
/// Peers of one page of a snapshot.
const PAGE: usize = 1000;
/// How long the agent may take to open a watch.
const OPENS: Duration = Duration::from_secs(30);

/// The server's end of a watch.
type Watch = mpsc::Sender<v1::WatchPeersResponse>;

/// What the calls share.
struct State {
    network: v1::Network,
    subnets: Vec<String>,
    watches: mpsc::Sender<Watch>,
    reports: watch::Sender<v1::ReportStatusRequest>,
}

/// A control plane for the node `a` in the network `default`, and what the agent has reported to it.
#[derive(Debug)]
pub struct Scripted {
    network: v1::Network,
    watches: mpsc::Receiver<Watch>,
    watch: Option<Watch>,
    reports: watch::Receiver<v1::ReportStatusRequest>,
    token: u32,
}

impl Scripted {
    /// Serves on the control plane's host, in its place. The node `a` is leased `subnets` of `network`.
    ///
    /// # Errors
    /// When there is no CA or the address is taken.
    pub async fn start(
        deployment: &Deployment,
        network: v1::Network,
        subnets: &[&str],
    ) -> anyhow::Result<Self> {
        let subnets = subnets.iter().map(|&subnet| subnet.to_owned()).collect();
        let now = SystemTime::now();
        let pki = Pki::open_or_create(&deployment.control.state.join("pki"), &"demo".parse()?, now)?;
        let bundle = pki.server(&"control-plane".parse()?, &[], Duration::from_secs(3600), now)?;
        let acceptor = TlsAcceptor::from(ServerTls::new(&bundle, None)?.usual());
        let socket =
            deployment.control.host.enter(|| std::net::TcpListener::bind(deployment.control.address()))?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;

        let (opened, watches) = mpsc::channel(1);
        let (reports, reported) = watch::channel(v1::ReportStatusRequest::default());
        let state = Arc::new(State { network: network.clone(), subnets, watches: opened, reports });
        let serving = transport::Server::builder()
            .add_service(LeaseServiceServer::from_arc(Arc::clone(&state)))
            .add_service(PeerServiceServer::from_arc(state))
            .serve_with_incoming(Box::pin(connections(listener, acceptor)));
        tokio::spawn(serving);
        Ok(Self { network, watches, watch: None, reports: reported, token: 0 })
    }

    /// Tells the whole set.
    ///
    /// # Errors
    /// When the agent opens no watch or has ended it.
    pub async fn snapshot(&mut self, mut peers: Vec<v1::Peer>, adopting: bool) -> anyhow::Result<()> {
        while peers.len() > PAGE {
            let peers = peers.drain(..PAGE).collect();
            self.send(Update::Snapshot(v1::SnapshotPage { peers, ..Default::default() })).await?;
        }
        let network = Some(self.network.clone());
        self.send(Update::Snapshot(v1::SnapshotPage { peers, last: true, network, adopting })).await?;
        self.heartbeat(adopting).await
    }

    /// Tells a change.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub async fn delta(&mut self, upserts: Vec<v1::Peer>, removed: &[&str]) -> anyhow::Result<()> {
        let removed = removed.iter().map(|&node| node.to_owned()).collect();
        self.send(Update::Delta(v1::Delta { upserts, removed, last: true, network: None })).await
    }

    /// Tells that nothing has changed.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub async fn heartbeat(&mut self, adopting: bool) -> anyhow::Result<()> {
        // The next one may never come: the agent shall not think that we are dead.
        let interval = Some(duration(Duration::from_secs(3600)));
        self.send(Update::Heartbeat(v1::Heartbeat { interval, adopting })).await
    }

    /// Forgets the watch: what is told from now on goes to the next one that the agent opens.
    pub fn await_another_watch(&mut self) {
        self.watch = None;
    }

    async fn send(&mut self, update: Update) -> anyhow::Result<()> {
        self.token += 1;
        let resume_token = self.token.to_be_bytes().to_vec();
        let message = v1::WatchPeersResponse { update: Some(update), resume_token };
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => {
                let opened = tokio::time::timeout(OPENS, self.watches.recv()).await;
                opened.context("the agent opens no watch")?.context("the server has ended")?
            }
        };
        watch.send(message).await.context("the watch has ended")?;
        self.watch = Some(watch);
        Ok(())
    }

    /// Waits until the agent has reported everything that it was told until now, and that it is
    /// ready; answers the report.
    ///
    /// # Errors
    /// When it does not within `timeout`.
    pub async fn report(&mut self, timeout: Duration) -> anyhow::Result<v1::ReportStatusRequest> {
        let token = self.token.to_be_bytes();
        let current = self.reports.wait_for(|report| report.applied_token == token && report.ready);
        let report = tokio::time::timeout(timeout, current).await.context("no report")??;
        Ok(report.clone())
    }
}

/// A VXLAN network named `default`, with subnets as long as pools have by default.
#[must_use]
pub fn vxlan_network(pools: &[&str], vni: u32) -> v1::Network {
    let pool = |&cidr: &&str| v1::Pool { cidr: cidr.into(), node_prefix_len: None };
    v1::Network {
        name: "networks/default".into(),
        pools: pools.iter().map(pool).collect(),
        vni: Some(vni),
        backend: Some(Backend::Vxlan(v1::VxlanBackend { port: Some(8472), ..Default::default() })),
        create_time: Some(timestamp(SystemTime::UNIX_EPOCH)),
        revision: 1,
        ..Default::default()
    }
}

/// A VXLAN peer that there is nothing wrong with, on the underlay that hosts of one segment have: 10.244.`number`.0/24
/// behind 192.0.2.`number`.
#[must_use]
pub fn vxlan_peer(node: &str, number: u8, vni: u32) -> v1::Peer {
    let endpoint = Some(client::vtep_on_segment(number, vni));
    v1::Peer { node: node.into(), subnets: vec![format!("10.244.{number}.0/24")], endpoint }
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

impl State {
    fn lease(&self, endpoint: Option<v1::Endpoint>) -> v1::Lease {
        v1::Lease {
            name: LEASE.into(),
            subnets: self.subnets.clone(),
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
        Ok(Response::new(v1::AcquireLeaseResponse {
            lease: Some(lease),
            network: Some(self.network.clone()),
        }))
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
        let (watch, messages) = mpsc::channel(WAITING);
        self.watches.send(watch).await.map_err(|_| Status::unavailable("nobody has anything to tell"))?;
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
        Ok(Response::new(v1::ReportStatusResponse { next_report, trust_generation: 0 }))
    }
}
