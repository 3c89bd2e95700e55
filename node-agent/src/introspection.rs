//! How the agent is, told on a Unix socket of its host: gRPC, of which no call changes anything.
//!
//! ```text
//!  identity on disk ─────┐
//!  readiness ────────────┼──▶ answer ──▶ AgentService ──▶ agent.sock (0660) ──▶ root, the file's group
//!  overview per network ─┘               reflection
//! ```
//!
//! It is there for people: where the socket cannot be had the agent goes on without it.

mod answer;
mod socket;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use loden_process::operations::Readiness;
use loden_proto::names::{NetworkId, NodeId};
use loden_proto::v1;
use loden_proto::v1::agent_service_server::{AgentService, AgentServiceServer, SERVICE_NAME};
use loden_transport::Bundle;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic::{Request, Response, Status, async_trait};
use tonic_reflection::server::Error as ReflectionError;
use tracing::{info, warn};

use self::answer::Known;
pub(crate) use self::socket::remove_stale;
pub use self::socket::{Socket, Unbound};
use crate::status::Overview;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 16;
/// Calls of a connection at once.
const STREAMS: u32 = 4;
/// How long a connection lasts at most: one that only hangs makes room for others.
const LIFE: Duration = Duration::from_secs(30);
/// Before the next attempt to accept a connection, when one could not be.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest request, in bytes: a name.
const LARGEST_REQUEST: usize = 4 << 10;
/// Bytes that a connection may send ahead.
const RECEIVE_WINDOW: u32 = 64 << 10;
/// Bytes of an answer that are taken ahead of a client that reads slowly.
const SEND_BUFFER: usize = 64 << 10;

/// What there is to tell.
#[derive(Clone, Debug)]
pub struct Introspection {
    /// The agent's node.
    pub node: NodeId,
    /// The directory of its identity.
    pub identity: PathBuf,
    /// As `/readyz` has it.
    pub readiness: watch::Receiver<Readiness>,
    /// The networks that are served.
    pub networks: BTreeMap<NetworkId, watch::Receiver<Overview>>,
}

/// It is not told.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    #[error(transparent)]
    Unbound(#[from] Unbound),
}

impl Introspection {
    /// Tells whoever asks at `path` until `shutdown` resolves; then the socket's file goes. Where the socket cannot be
    /// had it says so, and ends.
    pub async fn serve(self, path: PathBuf, shutdown: impl Future<Output = ()>) {
        match self.prepare(&path) {
            Ok((socket, routes)) => {
                info!(path = %path.display(), "socket opened");
                run(socket, routes, LIFE, shutdown).await;
            }
            Err(error) => {
                warn!(%error, "nothing is told on the agent's socket; the agent goes on without it")
            }
        }
    }

    fn prepare(self, path: &Path) -> Result<(Socket, Routes), Untold> {
        let routes = self.routes()?;
        Ok((Socket::bind(path)?, routes))
    }

    /// The service and reflection.
    fn routes(self) -> Result<Routes, ReflectionError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(loden_proto::AGENT_DESCRIPTORS)
                .with_service_name(SERVICE_NAME)
        };
        let service = AgentServiceServer::new(self).max_decoding_message_size(LARGEST_REQUEST);
        let routes = Routes::new(service)
            .add_service(reflection().build_v1()?.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(LARGEST_REQUEST));
        Ok(routes.prepare())
    }
}

#[async_trait]
impl AgentService for Introspection {
    async fn get_agent_status(
        &self,
        _: Request<v1::GetAgentStatusRequest>,
    ) -> Result<Response<v1::AgentStatus>, Status> {
        let identity = self.identity.clone();
        let holder = spawn_blocking(move || Bundle::read(&identity).ok()?.holder().ok()).await;
        let networks = self.networks.iter().map(|(id, overview)| (id, overview.borrow().clone()));
        let known = Known {
            node: &self.node,
            holder: holder.ok().flatten(),
            readiness: self.readiness.borrow().clone(),
            networks: networks.collect(),
        };
        Ok(Response::new(known.status()))
    }
}

/// Serves until `shutdown` resolves; then everybody is cut off.
async fn run(socket: Socket, routes: Routes, life: Duration, shutdown: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(routes);
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .initial_stream_window_size(RECEIVE_WINDOW);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = socket.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let connection = server.serve_connection(TokioIo::new(stream), service.clone());
                    // Whether a client got its answer is the client's business.
                    connections.spawn(async move { drop(timeout(life, connection).await) });
                }
                // No descriptor is left, or the client has gone: neither is for ever.
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::v1::agent_service_client::AgentServiceClient;
    use loden_proto::v1::network_service_client::NetworkServiceClient;
    use tempfile::TempDir;
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    use super::*;

    struct Served {
        root: TempDir,
        stop: oneshot::Sender<()>,
        server: JoinHandle<()>,
    }

    impl Served {
        fn new(life: Duration) -> Self {
            let root = tempfile::tempdir().unwrap();
            let (_, readiness) = watch::channel(Readiness::yes("blue: 2 peers from server"));
            let (_, overview) = watch::channel(Overview::default());
            let introspection = Introspection {
                node: "node-9".parse().unwrap(),
                identity: root.path().join("identity"),
                readiness,
                networks: BTreeMap::from([("blue".parse().unwrap(), overview)]),
            };
            let (socket, routes) = introspection.prepare(&root.path().join("agent.sock")).unwrap();
            let (stop, stopped) = oneshot::channel();
            let server = tokio::spawn(run(socket, routes, life, async { drop(stopped.await) }));
            Self { root, stop, server }
        }

        fn path(&self) -> PathBuf {
            self.root.path().join("agent.sock")
        }
    }

    async fn connect(path: &Path) -> Channel {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn ask(path: &Path) -> Result<v1::AgentStatus, Status> {
        let mut client = AgentServiceClient::new(connect(path).await);
        client.get_agent_status(v1::GetAgentStatusRequest {}).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn whoever_asks_is_told_until_the_end() {
        let served = Served::new(LIFE);
        let path = served.path();
        let status = ask(&path).await.unwrap();
        assert_eq!((&*status.node, status.ready), ("nodes/node-9", true));
        assert_eq!(status.networks[0].network, "networks/blue");

        // A client that only hangs does not keep the agent.
        let _silent = UnixStream::connect(&path).await.unwrap();
        served.stop.send(()).unwrap();
        served.server.await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn reflection_names_the_one_service_that_there_is() {
        let served = Served::new(LIFE);
        let channel = connect(&served.path()).await;
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(channel);
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = &answer.message_response else {
            panic!("{answer:?}")
        };
        let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
        assert_eq!(names, ["loden.v1.AgentService"]);
    }

    #[tokio::test]
    async fn nothing_of_the_control_plane_is_served() {
        let served = Served::new(LIFE);
        let mut client = NetworkServiceClient::new(connect(&served.path()).await);
        let refused = client.delete_network(v1::DeleteNetworkRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn whoever_hangs_makes_room_for_those_who_ask() {
        let served = Served::new(Duration::from_secs(1));
        let path = served.path();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let answer = timeout(Duration::from_secs(10), ask(&path)).await.expect("the silent hold the door");
        assert!(answer.unwrap().ready);
    }
}
