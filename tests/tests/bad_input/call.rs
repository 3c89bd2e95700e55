//! Requests as data: one that would succeed, and what is changed of it.

use loden_proto::v1::{
    self, cluster_service_client::ClusterServiceClient, lease_service_client::LeaseServiceClient,
    network::Backend, network_service_client::NetworkServiceClient, node_service_client::NodeServiceClient,
    peer_service_client::PeerServiceClient, receiver::Kind,
};
use loden_tests::client;
use tonic::{Status, transport::Channel};

/// A call with its request.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    CreateNetwork(v1::CreateNetworkRequest),
    GetNetwork(&'static str),
    ListNetworks(v1::ListNetworksRequest),
    UpdateNetwork(v1::UpdateNetworkRequest),
    DeleteNetwork(&'static str),
    AcquireLease(v1::AcquireLeaseRequest),
    RenewLease(v1::RenewLeaseRequest),
    UpdateEndpoint(v1::UpdateEndpointRequest),
    ReleaseLease(v1::ReleaseLeaseRequest),
    GetLease(&'static str),
    ListLeases(v1::ListLeasesRequest),
    CreateReservation(v1::CreateReservationRequest),
    ListReservations(&'static str),
    DeleteReservation(&'static str),
    WatchPeers(v1::WatchPeersRequest),
    ReportStatus(v1::ReportStatusRequest),
    GetNode(&'static str),
    ListNodes,
    GetClusterStatus,
}

impl Call {
    /// Sends it; what comes back when it succeeds is of no interest here.
    pub(crate) async fn send(self, channel: Channel) -> Result<(), Status> {
        let mut networks = NetworkServiceClient::new(channel.clone());
        let mut leases = LeaseServiceClient::new(channel.clone());
        let mut peers = PeerServiceClient::new(channel.clone());
        let mut nodes = NodeServiceClient::new(channel.clone());
        let mut cluster = ClusterServiceClient::new(channel);
        match self {
            Self::CreateNetwork(request) => networks.create_network(request).await.map(drop),
            Self::GetNetwork(name) => {
                networks.get_network(v1::GetNetworkRequest { name: name.into() }).await.map(drop)
            }
            Self::ListNetworks(request) => networks.list_networks(request).await.map(drop),
            Self::UpdateNetwork(request) => networks.update_network(request).await.map(drop),
            Self::DeleteNetwork(name) => {
                let request = v1::DeleteNetworkRequest { name: name.into(), force: false };
                networks.delete_network(request).await.map(drop)
            }
            Self::AcquireLease(request) => leases.acquire_lease(request).await.map(drop),
            Self::RenewLease(request) => leases.renew_lease(request).await.map(drop),
            Self::UpdateEndpoint(request) => leases.update_endpoint(request).await.map(drop),
            Self::ReleaseLease(request) => leases.release_lease(request).await.map(drop),
            Self::GetLease(name) => {
                leases.get_lease(v1::GetLeaseRequest { name: name.into() }).await.map(drop)
            }
            Self::ListLeases(request) => leases.list_leases(request).await.map(drop),
            Self::CreateReservation(request) => leases.create_reservation(request).await.map(drop),
            Self::ListReservations(parent) => {
                let request = v1::ListReservationsRequest { parent: parent.into(), ..Default::default() };
                leases.list_reservations(request).await.map(drop)
            }
            Self::DeleteReservation(name) => {
                leases.delete_reservation(v1::DeleteReservationRequest { name: name.into() }).await.map(drop)
            }
            Self::WatchPeers(request) => match peers.watch_peers(request).await {
                Ok(stream) => stream.into_inner().message().await.map(drop),
                Err(status) => Err(status),
            },
            Self::ReportStatus(request) => peers.report_status(request).await.map(drop),
            Self::GetNode(name) => nodes.get_node(v1::GetNodeRequest { name: name.into() }).await.map(drop),
            Self::ListNodes => nodes.list_nodes(v1::ListNodesRequest::default()).await.map(drop),
            Self::GetClusterStatus => {
                cluster.get_cluster_status(v1::GetClusterStatusRequest::default()).await.map(drop)
            }
        }
    }
}

/// A network that could be created, with this changed.
pub(crate) fn create(change: impl FnOnce(&mut v1::Network)) -> Call {
    let mut network = v1::Network {
        name: "networks/new".into(),
        pools: vec![pool("10.50.0.0/16", None)],
        backend: Some(Backend::Vxlan(v1::VxlanBackend::default())),
        ..Default::default()
    };
    change(&mut network);
    Call::CreateNetwork(v1::CreateNetworkRequest { network: Some(network), request_id: String::new() })
}

/// The same with one pool.
pub(crate) fn create_pool(cidr: &str, node_prefix_len: Option<u32>) -> Call {
    create(|network| network.pools = vec![pool(cidr, node_prefix_len)])
}

/// The same with another UDP port.
pub(crate) fn create_port(port: u32) -> Call {
    let backend = v1::VxlanBackend { port: Some(port), ..Default::default() };
    create(|network| network.backend = Some(Backend::Vxlan(backend)))
}

/// The same over UDP.
pub(crate) fn create_udp(udp: v1::UdpBackend) -> Call {
    create(|network| network.backend = Some(Backend::Udp(udp)))
}

/// A change of a network that is there.
pub(crate) fn update(path: &str, change: impl FnOnce(&mut v1::Network)) -> Call {
    let mut network = v1::Network { name: "networks/default".into(), ..Default::default() };
    change(&mut network);
    let mut request = v1::UpdateNetworkRequest { network: Some(network), ..Default::default() };
    request
        .update_mask
        .get_or_insert_default()
        .paths
        .extend(Some(path.to_owned()).filter(|path| !path.is_empty()));
    Call::UpdateNetwork(request)
}

pub(crate) fn pool(cidr: &str, node_prefix_len: Option<u32>) -> v1::Pool {
    v1::Pool { cidr: cidr.into(), node_prefix_len }
}

/// An acquire that could succeed, with this changed.
pub(crate) fn acquire(change: impl FnOnce(&mut v1::AcquireLeaseRequest)) -> Call {
    Call::AcquireLease(acquire_request(0x0b, change))
}

pub(crate) fn acquire_request(
    number: u8,
    change: impl FnOnce(&mut v1::AcquireLeaseRequest),
) -> v1::AcquireLeaseRequest {
    let mut request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: "networks/default".into(),
        instance_id: format!("{number:032x}"),
        claim: Vec::new(),
        endpoint: Some(endpoint(number)),
    };
    change(&mut request);
    request
}

/// Where a node with this number receives in the network `default`.
pub(crate) fn endpoint(number: u8) -> v1::Endpoint {
    client::vtep_on_segment(number, 100)
}

/// An acquire with another endpoint.
pub(crate) fn acquire_at(change: impl FnOnce(&mut v1::Endpoint)) -> Call {
    acquire(|request| change(request.endpoint.get_or_insert_default()))
}

/// An acquire from this IPv4 address.
pub(crate) fn acquire_v4(address: &str) -> Call {
    acquire_at(|endpoint| endpoint.address_v4 = address.into())
}

/// An acquire from this IPv6 address.
pub(crate) fn acquire_v6(address: &str) -> Call {
    acquire_at(|endpoint| endpoint.address_v6 = address.into())
}

/// An acquire with another VTEP.
pub(crate) fn acquire_vtep(change: impl FnOnce(&mut v1::VxlanReceiver)) -> Call {
    acquire_at(|endpoint| {
        if let Some(Kind::Vxlan(vtep)) = &mut endpoint.receivers[0].kind {
            change(vtep);
        }
    })
}

/// An acquire in the network `tunnel`, with another receiver.
pub(crate) fn acquire_udp(change: impl FnOnce(&mut v1::UdpReceiver)) -> Call {
    acquire(|request| {
        request.network = "networks/tunnel".into();
        let family = v1::AddressFamily::Ipv4.into();
        let mut udp = v1::UdpReceiver { family, vni: 106, port: 8285, key: 0x0123_4567_89ab, mtu: 1460 };
        change(&mut udp);
        request.endpoint.get_or_insert_default().receivers =
            vec![v1::Receiver { kind: Some(Kind::Udp(udp)) }];
    })
}

/// An acquire that claims a subnet.
pub(crate) fn acquire_claim(claim: &[&str]) -> Call {
    acquire(|request| request.claim = claim.iter().map(|&subnet| subnet.into()).collect())
}

/// A reservation in the network `default` for the node `b`, with this changed.
pub(crate) fn reserve(change: impl FnOnce(&mut v1::Reservation)) -> Call {
    let mut reservation = v1::Reservation {
        name: "networks/default/reservations/b".into(),
        subnets: vec!["10.244.200.0/24".into()],
        ..Default::default()
    };
    change(&mut reservation);
    let reservation = Some(reservation);
    Call::CreateReservation(v1::CreateReservationRequest { reservation, request_id: String::new() })
}

pub(crate) fn reserve_subnet(subnet: &str) -> Call {
    reserve(|reservation| reservation.subnets = vec![subnet.into()])
}
