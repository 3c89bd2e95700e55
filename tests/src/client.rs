//! Clients of a real control plane, without an agent around them.
//!
//! ```text
//!  Identities ── the cluster's CA ──▶ directory ──ControlPlane::channel──▶ Channel
//!                                                                            │
//!                      lists of everything, page by page  ◀──────────────────┤
//!                      Follower: a watch read into a set of peers ◀──────────┘
//!  raw: HTTP/2 beneath gRPC, for clients that misbehave
//! ```

mod follower;
pub mod raw;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use loden_control_plane::identity::Pki;
use loden_proto::names::NodeId;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_transport::{Bundle, Role};
use tonic::Status;
use tonic::transport::Channel;

use crate::deployment::ControlPlane;

pub use follower::{Follower, Seen};

/// How long an identity lives.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Small, so that lists have several pages.
const PAGE: i32 = 17;

/// Makes identities with the cluster's CA, in the calling process.
#[derive(Debug)]
pub struct Identities {
    pki: Pki,
    directory: PathBuf,
}

impl Identities {
    /// Of a control plane that has been started before; they are kept in `directory`.
    ///
    /// # Errors
    /// When its CA cannot be read.
    pub fn of(control: &ControlPlane, directory: &Path) -> anyhow::Result<Self> {
        let cluster = Bundle::read(&control.admin_identity())?.id().cluster.clone();
        let pki = Pki::open_or_create(&control.state.join("pki"), &cluster, SystemTime::now())?;
        Ok(Self { pki, directory: directory.to_owned() })
    }

    /// Makes a node's identity; answers its directory.
    ///
    /// # Errors
    /// When the name is none or the disk fails.
    pub fn node(&self, name: &str) -> anyhow::Result<PathBuf> {
        let node: NodeId = name.parse()?;
        self.issue(Role::Node(node), name)
    }

    /// Makes an administrator's identity; answers its directory.
    ///
    /// # Errors
    /// When the name is none or the disk fails.
    pub fn admin(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.issue(Role::Admin(name.parse()?), name)
    }

    fn issue(&self, role: Role, name: &str) -> anyhow::Result<PathBuf> {
        let bundle = self.pki.authority().issue(role, &[], 0, VALIDITY, SystemTime::now())?;
        let directory = self.directory.join(name);
        bundle.write(&directory)?;
        Ok(directory)
    }
}

/// All networks, over all pages.
///
/// # Errors
/// What the server says.
pub async fn networks(channel: &Channel) -> Result<Vec<v1::Network>, Status> {
    let mut client = NetworkServiceClient::new(channel.clone());
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListNetworksRequest { page_size: PAGE, page_token };
        let page = client.list_networks(request).await?.into_inner();
        all.extend(page.networks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// All leases of all networks, over all pages.
///
/// # Errors
/// What the server says.
pub async fn leases(channel: &Channel) -> Result<Vec<v1::Lease>, Status> {
    let mut client = LeaseServiceClient::new(channel.clone());
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListLeasesRequest { parent: "networks/-".to_owned(), page_size: PAGE, page_token };
        let page = client.list_leases(request).await?.into_inner();
        all.extend(page.leases);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// Creates a VXLAN network; its VNI is the server's choice.
///
/// # Errors
/// What the server says.
pub async fn create_network(
    channel: &Channel,
    name: &str,
    pool: &str,
    node_prefix_len: u32,
) -> Result<v1::Network, Status> {
    let pool = v1::Pool { cidr: pool.to_owned(), node_prefix_len: Some(node_prefix_len) };
    let network = v1::Network {
        name: format!("networks/{name}"),
        pools: vec![pool],
        backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend::default())),
        ..Default::default()
    };
    let request = v1::CreateNetworkRequest { network: Some(network), request_id: String::new() };
    Ok(NetworkServiceClient::new(channel.clone()).create_network(request).await?.into_inner())
}

/// Acquires a lease, as a node that holds nothing.
///
/// # Errors
/// What the server says.
pub async fn acquire(
    channel: &Channel,
    network: &str,
    instance: u128,
    endpoint: v1::Endpoint,
) -> Result<v1::Lease, Status> {
    let request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: format!("networks/{network}"),
        instance_id: format!("{instance:032x}"),
        claim: Vec::new(),
        endpoint: Some(endpoint),
    };
    let answer = LeaseServiceClient::new(channel.clone()).acquire_lease(request).await?.into_inner();
    answer.lease.ok_or_else(|| Status::internal("a granted lease has no content"))
}

/// Where no kernel is (for benchmarks, RFC 2544).
pub const NOWHERE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15));

/// An endpoint in [`NOWHERE`].
#[must_use]
pub fn endpoint(number: u16) -> v1::Endpoint {
    let [high, low] = number.to_be_bytes();
    v1::Endpoint { address_v4: Ipv4Addr::new(198, 18, high, low).to_string(), ..Default::default() }
}

/// An endpoint as [`endpoint`] that receives VXLAN over IPv4 with this VNI, or so it says.
#[must_use]
pub fn vtep(number: u16, vni: u32) -> v1::Endpoint {
    let [high, low] = number.to_be_bytes();
    let receiver = v1::VxlanReceiver {
        family: v1::AddressFamily::Ipv4.into(),
        vni,
        port: 8472,
        mac: format!("02:00:5e:10:{high:02x}:{low:02x}"),
        mtu: 1450,
        gbp: false,
    };
    let kind = Some(v1::receiver::Kind::Vxlan(receiver));
    v1::Endpoint { receivers: vec![v1::Receiver { kind }], ..endpoint(number) }
}

/// The same with an address that hosts of one segment have: 192.0.2.`number`.
#[must_use]
pub fn vtep_on_segment(number: u8, vni: u32) -> v1::Endpoint {
    v1::Endpoint { address_v4: format!("192.0.2.{number}"), ..vtep(number.into(), vni) }
}

/// The network and the node of a lease's name.
///
/// # Errors
/// When it is none.
pub fn parts(name: &str) -> anyhow::Result<(&str, &str)> {
    let parts = name.strip_prefix("networks/").and_then(|rest| rest.split_once("/leases/"));
    parts.with_context(|| format!("{name:?} is not the name of a lease"))
}
