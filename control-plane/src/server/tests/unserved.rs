//! Nodes without a lease: each refusal is shown with its cause until the node has its lease.

use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use super::fixture::*;

fn request(network: &v1::Network, host: u8) -> v1::AcquireLeaseRequest {
    v1::AcquireLeaseRequest {
        network: network.name.clone(),
        instance_id: instance(host),
        endpoint: Some(endpoint(network.vni.unwrap_or(1), host)),
        ..Default::default()
    }
}

async fn shown(admin: &Channel, node: &str) -> v1::Node {
    let get = v1::GetNodeRequest { name: format!("nodes/{node}") };
    NodeServiceClient::new(admin.clone()).get_node(get).await.unwrap().into_inner()
}

/// How many nodes are refused, and how many wait.
async fn counted(admin: &Channel) -> (u32, u32) {
    let mut clusters = ClusterServiceClient::new(admin.clone());
    let status = clusters.get_cluster_status(v1::GetClusterStatusRequest {}).await.unwrap().into_inner();
    (status.refused_nodes, status.waiting_nodes)
}

#[tokio::test]
async fn every_refusal_of_a_lease_is_shown_with_its_cause() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let over = create(&admin, "over", "198.51.100.0/24").await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    acquire(&fixture.node("a").await, &blue, 1).await;
    let nowhere = v1::Network { name: "networks/nowhere".to_owned(), ..blue.clone() };
    let on = |address: &str, mut request: v1::AcquireLeaseRequest| {
        request.endpoint.get_or_insert_default().address_v4 = address.to_owned();
        request
    };
    let cases = [
        ("over-pool", on("198.51.100.7", request(&over, 7)), "FAILED_PRECONDITION", "OVERLAPS_UNDERLAY"),
        ("same-mac", on("192.0.2.9", request(&blue, 1)), "ALREADY_EXISTS", "TAKEN"),
        ("unknown", request(&nowhere, 8), "NOT_FOUND", "NOT_FOUND"),
        ("wrong", on("224.0.0.1", request(&blue, 9)), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ];
    for (node, request, code, reason) in &cases {
        let mut leases = LeaseServiceClient::new(fixture.node(node).await);
        let status = leases.acquire_lease(request.clone()).await.unwrap_err();
        let seen = shown(&admin, node).await;
        let of = &seen.networks[0];
        assert_eq!(
            (of.network.as_str(), of.converged, of.subnets.len()),
            (request.network.as_str(), false, 0)
        );
        let refusal = of.refusal.as_ref().unwrap();
        assert_eq!((refusal.code.as_str(), refusal.reason.as_str()), (*code, *reason));
        assert_eq!(refusal.message, status.message());
        assert!(refusal.address.starts_with("127.0.0.1:"), "{refusal:?}");
        assert_eq!((seen.connected, seen.since), (false, refusal.since));
    }
    assert_eq!(counted(&admin).await, (4, 0));
    fixture.until("/metrics", "loden_nodes_refused 4\n").await;
    let mut nodes = NodeServiceClient::new(admin.clone());
    let list = nodes.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = list.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["nodes/a", "nodes/over-pool", "nodes/same-mac", "nodes/unknown", "nodes/wrong"]);

    // What was wrong is put right: it is a node like others.
    acquire(&fixture.node("wrong").await, &blue, 9).await;
    assert_eq!(shown(&admin, "wrong").await.networks[0].refusal, None);
    assert_eq!(counted(&admin).await, (3, 0));
}

#[tokio::test]
async fn an_exhausted_pool_is_shown_beside_networks_that_have_room() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let mut small = network("small", "10.9.0.0/22");
    small.pools[0].node_prefix_len = Some(24);
    let create = v1::CreateNetworkRequest { network: Some(small), ..Default::default() };
    let small = NetworkServiceClient::new(admin.clone()).create_network(create).await.unwrap().into_inner();
    for (name, host) in [("a", 1), ("b", 2), ("c", 3)] {
        acquire(&fixture.node(name).await, &small, host).await;
    }
    let d = fixture.node("d").await;
    let status = LeaseServiceClient::new(d.clone()).acquire_lease(request(&small, 4)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let refusal = shown(&admin, "d").await.networks[0].refusal.clone().unwrap();
    assert_eq!((refusal.code.as_str(), refusal.reason.as_str()), ("RESOURCE_EXHAUSTED", "EXHAUSTED"));
    let blue = super::fixture::create(&admin, "blue", "10.1.0.0/16").await;
    acquire(&d, &blue, 4).await;
    let networks = shown(&admin, "d").await.networks;
    let names: Vec<_> = networks.iter().map(|of| (of.network.as_str(), of.refusal.is_some())).collect();
    assert_eq!(names, [("networks/blue", false), ("networks/small", true)], "each by itself");
}

#[tokio::test]
async fn a_node_that_does_not_get_as_far_as_asking_is_shown_with_what_it_says() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let node = fixture.node("a").await;
    let report = v1::ReportStatusRequest {
        network: blue.name.clone(),
        not_ready_reason: "no interface to send over".to_owned(),
        ..Default::default()
    };
    let status = PeerServiceClient::new(node.clone()).report_status(report).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let of = shown(&admin, "a").await.networks.remove(0);
    assert_eq!((of.not_ready_reason.as_str(), of.refusal), ("no interface to send over", None));
    assert_eq!(counted(&admin).await, (1, 0));
    acquire(&node, &blue, 1).await;
    assert_eq!(shown(&admin, "a").await.networks[0].not_ready_reason, "");
    assert_eq!(counted(&admin).await, (0, 0));
}
