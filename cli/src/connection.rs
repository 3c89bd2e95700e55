//! The channel to the control plane and its clients.

use std::path::Path;

use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_transport::{ConnectOptions, Credentials, ServerAddress, connect};
use tonic::transport::Channel;

use crate::failure::Failure;

/// Asked for per page of a list; the most that a server gives.
pub(crate) const PAGE: i32 = 1000;

/// Largest message that is read, in bytes: a page of 1000 nodes with failures.
const LARGEST: usize = 64 << 20;

/// All items of a list, page by page. `page` answers those of a page and the token of the next one, which
/// is empty at the end.
pub(crate) async fn all_pages<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// An open connection.
pub(crate) struct Connection(Channel);

impl Connection {
    /// Connects to the first server that answers.
    pub(crate) async fn open(servers: &[ServerAddress], identity: Option<&Path>) -> Result<Self, Failure> {
        if servers.is_empty() {
            return Err(Failure::Missing { what: "server", variable: "LODEN_SERVER" });
        }
        let Some(identity) = identity else {
            return Err(Failure::Missing { what: "identity", variable: "LODEN_IDENTITY" });
        };
        let credentials = Credentials::watched(identity)?;
        let options = ConnectOptions {
            user_agent: concat!("lodenctl/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ConnectOptions::default()
        };
        Ok(Self(connect(servers, &credentials, &options).await?))
    }

    pub(crate) fn networks(&self) -> NetworkServiceClient<Channel> {
        NetworkServiceClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn peers(&self) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn identities(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.0.clone())
    }
}
