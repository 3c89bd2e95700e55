//! The one way in: identity, role table, then the service. Whoever shows no certificate comes to join.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::{Request, Response};
use hyper::body::Incoming;
use loden_proto::reason::{self, Reason};
use loden_proto::v1::cluster_service_server::ClusterServiceServer;
use loden_proto::v1::identity_service_server::IdentityServiceServer;
use loden_proto::v1::lease_service_server::LeaseServiceServer;
use loden_proto::v1::network_service_server::NetworkServiceServer;
use loden_proto::v1::node_service_server::NodeServiceServer;
use loden_proto::v1::peer_service_server::PeerServiceServer;
use loden_transport::{Holder, Role};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;
use tracing::warn;

use super::access::{Caller, Rpc};
use super::cluster::Clusters;
use super::exchange::{self, LARGEST_REQUEST};
use super::identity::Identities;
use super::lease::Leases;
use super::network::Networks;
use super::node::Nodes;
use super::peer::Peers;
use super::{Shared, watch};
use crate::audit::is_denial;
use crate::ledger::Command;
use crate::registry::{Client, Link};

/// Largest request of health and reflection, in bytes: a name.
const LARGEST_NAME: usize = 4 << 10;

/// Answers every request of every connection.
#[derive(Clone)]
pub(crate) struct Door {
    shared: Arc<Shared>,
    routes: Routes,
}

impl Door {
    /// All services, health and reflection.
    ///
    /// # Errors
    /// The protocol's descriptors cannot be read.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        health: HealthServer<impl Health>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(loden_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        macro_rules! service {
            ($server:ident, $service:expr) => {
                $server::new($service).max_decoding_message_size(LARGEST_REQUEST)
            };
        }
        let routes = Routes::new(health.max_decoding_message_size(LARGEST_NAME))
            .add_service(reflection().build_v1()?.max_decoding_message_size(LARGEST_NAME))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(LARGEST_NAME))
            .add_service(service!(IdentityServiceServer, Identities(Arc::clone(shared))))
            .add_service(service!(NetworkServiceServer, Networks(Arc::clone(shared))))
            .add_service(service!(LeaseServiceServer, Leases(Arc::clone(shared))))
            .add_service(service!(PeerServiceServer, Peers(Arc::clone(shared))))
            .add_service(service!(NodeServiceServer, Nodes(Arc::clone(shared))))
            .add_service(service!(ClusterServiceServer, Clusters(Arc::clone(shared))))
            .prepare();
        Ok(Self { shared: Arc::clone(shared), routes })
    }

    /// Who calls what, if it may. `None`: nothing that we serve; tonic says so.
    fn admit(&self, holder: &Holder, from: SocketAddr, path: &str) -> Result<Option<Caller>, Status> {
        self.shared.keeper.check(holder, SystemTime::now())?;
        match Rpc::of_path(path) {
            Some(rpc) => Caller::admit(holder, &self.shared.cluster, rpc, from).map(Some),
            None if matches!(holder.id.role, Role::ControlPlane(_)) => {
                let message = format!("{} is a server's identity and may call nothing", holder.id);
                Err(reason::status(Code::PermissionDenied, Reason::NotAllowed, message))
            }
            None => Ok(None),
        }
    }

    /// A call that is not let in.
    fn deny(&self, link: &Link, path: &str, status: Status) -> Response<Body> {
        let what = Rpc::of_path(path).map_or("an unknown call", Rpc::method);
        note_denial(&self.shared, link, what, &status);
        status.into_http()
    }
}

fn note_denial(shared: &Shared, link: &Link, what: &'static str, status: &Status) {
    shared.metrics.denied.inc();
    shared.audit.denied(link, what, status.message());
}

/// Keeps in mind of which epoch a node's certificate is, if that is higher than was ever given here: the next
/// revocation has to be above it.
async fn see(shared: &Shared, caller: &Caller) {
    let Role::Node(node) = &caller.id.role else { return };
    if caller.epoch > shared.clerk.read(|ledger| ledger.identity_epoch(node)) {
        let command = Command::See { node: node.clone(), epoch: caller.epoch };
        if let Err(error) = shared.clerk.submit(command).await {
            warn!(%node, epoch = caller.epoch, %error, "a revocation may not cover the certificate of this node");
        }
    }
}

/// Has a call answered that the table lets through: whose resource it is, is seen there.
async fn answer(
    shared: Arc<Shared>,
    routes: Routes,
    caller: Caller,
    link: Arc<Link>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let rpc = caller.rpc();
    shared.metrics.called(rpc.method());
    let asked = Arc::clone(&link);
    see(&shared, &caller).await;
    let response = if rpc == Rpc::WatchPeers {
        watch::serve(Arc::clone(&shared), caller, link, request).await
    } else {
        request.extensions_mut().insert(caller);
        let held = shared.held.clone();
        match rpc {
            Rpc::Health => exchange::watching(held, link, routes, request).await,
            Rpc::Reflection => exchange::conversing(held, link, routes, request).await,
            _ => exchange::unary(held, link, routes, request).await,
        }
    };
    if let Some(status) = Status::from_header_map(response.headers()).filter(is_denial) {
        note_denial(&shared, &asked, rpc.method(), &status);
    }
    response
}

impl Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Some(link) = request.extensions().get::<Arc<Link>>().cloned() else {
            let status = Status::unauthenticated("the connection has no identity");
            return Box::pin(async move { Ok(status.into_http()) });
        };
        let path = request.uri().path();
        let admitted = match &link.client {
            Client::Holder(holder) => self.admit(holder, link.remote, path),
            Client::Joining(_) if Rpc::of_path(path) == Some(Rpc::Join) => {
                let (held, routes) = (self.shared.held.clone(), self.routes.clone());
                self.shared.metrics.called(Rpc::Join.method());
                return Box::pin(async move { Ok(exchange::unary(held, link, routes, request).await) });
            }
            Client::Joining(_) => Err(Status::unauthenticated(
                "a certificate is needed; who has none, but a token, may call Join alone",
            )),
        };
        let caller = match admitted {
            Ok(caller) => caller,
            Err(status) => {
                let denied = self.deny(&link, path, status);
                return Box::pin(async move { Ok(denied) });
            }
        };
        let Some(caller) = caller else { return Box::pin(self.routes.call(request)) };
        let (shared, routes) = (Arc::clone(&self.shared), self.routes.clone());
        Box::pin(async move { Ok(answer(shared, routes, caller, link, request).await) })
    }
}
