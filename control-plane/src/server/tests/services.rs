//! The services, request by request.

use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use tonic::Code;

use super::fixture::*;

#[tokio::test]
async fn a_network_lives_from_create_to_delete() {
    let fixture = start().await;
    let mut networks = NetworkServiceClient::new(fixture.admin().await);
    let request = v1::CreateNetworkRequest {
        network: Some(network("blue", "10.1.0.0/16")),
        request_id: "once".to_owned(),
    };
    let created = networks.create_network(request.clone()).await.unwrap().into_inner();
    assert_eq!(created.pools[0].node_prefix_len, Some(24));
    assert!(created.vni.is_some() && created.create_time.is_some());
    // A repeat gets the first answer, another request with the name does not.
    assert_eq!(networks.create_network(request).await.unwrap().into_inner(), created);
    let again =
        v1::CreateNetworkRequest { network: Some(network("blue", "10.2.0.0/16")), ..Default::default() };
    let status = networks.create_network(again).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(Reason::Taken.is_of(&status), "{status:?}");

    let mut changed = created.clone();
    changed.mtu = Some(1400);
    let update_mask = Some(prost_types::FieldMask { paths: vec!["mtu".to_owned()] });
    let request = v1::UpdateNetworkRequest { network: Some(changed), update_mask };
    let updated = networks.update_network(request).await.unwrap().into_inner();
    assert_eq!(updated.mtu, Some(1400));
    assert!(updated.revision > created.revision);
    let get = v1::GetNetworkRequest { name: "networks/blue".to_owned() };
    assert_eq!(networks.get_network(get.clone()).await.unwrap().into_inner(), updated);

    let delete = v1::DeleteNetworkRequest { name: "networks/blue".to_owned(), force: false };
    networks.delete_network(delete.clone()).await.unwrap();
    for status in
        [networks.get_network(get).await.unwrap_err(), networks.delete_network(delete).await.unwrap_err()]
    {
        assert_eq!(status.code(), Code::NotFound);
        assert!(Reason::NotFound.is_of(&status), "{status:?}");
    }
    fixture.server.shutdown().await;
}

#[tokio::test]
async fn a_list_is_read_page_by_page_while_it_changes() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    for index in 0..5 {
        create(&admin, &format!("net-{index}"), &format!("10.{index}.0.0/16")).await;
    }
    let mut networks = NetworkServiceClient::new(admin);
    let page = |token: &str| v1::ListNetworksRequest { page_size: 2, page_token: token.to_owned() };
    let first = networks.list_networks(page("")).await.unwrap().into_inner();
    let names = |list: &v1::ListNetworksResponse| -> Vec<String> {
        list.networks.iter().map(|network| network.name.clone()).collect()
    };
    assert_eq!(names(&first), ["networks/net-0", "networks/net-1"]);
    let gone = v1::DeleteNetworkRequest { name: "networks/net-1".to_owned(), force: false };
    networks.delete_network(gone).await.unwrap();
    let second = networks.list_networks(page(&first.next_page_token)).await.unwrap().into_inner();
    assert_eq!(names(&second), ["networks/net-2", "networks/net-3"]);
    assert!(second.revision > first.revision);
    let third = networks.list_networks(page(&second.next_page_token)).await.unwrap().into_inner();
    assert_eq!(
        (names(&third).as_slice(), third.next_page_token.as_str()),
        (&["networks/net-4".to_owned()][..], "")
    );
    for bad in [
        v1::ListNetworksRequest { page_size: 1001, page_token: String::new() },
        v1::ListNetworksRequest { page_size: 0, page_token: "x".to_owned() },
    ] {
        assert_eq!(networks.list_networks(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn leases_and_reservations_are_given_listed_and_taken_back() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let node = fixture.node("a").await;
    let lease = acquire(&node, &blue, 1).await;
    assert_eq!(lease.name, "networks/blue/leases/a");
    assert_eq!(lease.state(), v1::LeaseState::Active);
    assert_eq!(acquire(&node, &blue, 1).await.subnets, lease.subnets);

    let mut own = LeaseServiceClient::new(node);
    let renew = v1::RenewLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
    assert_eq!(own.renew_lease(renew).await.unwrap().into_inner().subnets, lease.subnets);
    let stale = v1::RenewLeaseRequest { name: lease.name.clone(), epoch: lease.epoch + 7 };
    let status = own.renew_lease(stale).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(Reason::StaleEpoch.is_of(&status), "{status:?}");

    let mut leases = LeaseServiceClient::new(admin);
    let reservation = v1::Reservation {
        name: "networks/blue/reservations/b".to_owned(),
        subnets: vec!["10.1.200.0/24".to_owned()],
        create_time: None,
    };
    let request = v1::CreateReservationRequest { reservation: Some(reservation), request_id: String::new() };
    leases.create_reservation(request).await.unwrap();
    let reserved = acquire(&fixture.node("b").await, &blue, 2).await;
    assert_eq!(reserved.subnets, ["10.1.200.0/24"]);
    assert!(reserved.reserved && reserved.expire_time.is_none());

    for parent in ["networks/blue", "networks/-"] {
        let list = v1::ListLeasesRequest { parent: parent.to_owned(), ..Default::default() };
        let list = leases.list_leases(list).await.unwrap().into_inner();
        let names: Vec<_> = list.leases.iter().map(|lease| lease.name.as_str()).collect();
        assert_eq!(names, ["networks/blue/leases/a", "networks/blue/leases/b"]);
    }
    let unknown = v1::ListLeasesRequest { parent: "networks/red".to_owned(), ..Default::default() };
    assert_eq!(leases.list_leases(unknown).await.unwrap_err().code(), Code::NotFound);
    let list = v1::ListReservationsRequest { parent: "networks/-".to_owned(), ..Default::default() };
    assert_eq!(leases.list_reservations(list).await.unwrap().into_inner().reservations.len(), 1);

    // An admin may leave the epoch out, the node may not.
    let release = v1::ReleaseLeaseRequest { name: lease.name.clone(), epoch: 0 };
    assert_eq!(own.release_lease(release.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    leases.release_lease(release).await.unwrap();
    let get = v1::GetLeaseRequest { name: lease.name };
    assert_eq!(leases.get_lease(get).await.unwrap_err().code(), Code::NotFound);
    let delete = v1::DeleteReservationRequest { name: "networks/blue/reservations/b".to_owned() };
    leases.delete_reservation(delete).await.unwrap();
}

#[tokio::test]
async fn an_error_names_the_requests_field() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let mut networks = NetworkServiceClient::new(admin);
    let mut leases = LeaseServiceClient::new(fixture.node("a").await);
    let request =
        v1::CreateNetworkRequest { network: Some(network("red", "10.2.0.1/16")), ..Default::default() };
    let status = networks.create_network(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("network.pools[0].cidr: \"10.2.0.1/16\""), "{status:?}");

    let mut endpoint = endpoint(blue.vni.unwrap(), 1);
    if let Some(v1::receiver::Kind::Vxlan(vtep)) = &mut endpoint.receivers[0].kind {
        vtep.mac = "01:00:5e:00:00:01".to_owned();
    }
    let request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: "networks/blue".to_owned(),
        instance_id: instance(1),
        claim: Vec::new(),
        endpoint: Some(endpoint),
    };
    let status = leases.acquire_lease(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("endpoint.receivers[0].vxlan.mac: "), "{status:?}");
}

#[tokio::test]
async fn a_nodes_report_shows_whether_it_has_converged() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let node = fixture.node("a").await;
    acquire(&node, &blue, 1).await;
    let mut stream = watch(&node, &blue.name, Some(1), Vec::new()).await.unwrap();
    let (_, token) = next(&mut stream).await;

    let mut peers = PeerServiceClient::new(node);
    let mut nodes = NodeServiceClient::new(admin.clone());
    let mut clusters = ClusterServiceClient::new(admin);
    let get = v1::GetNodeRequest { name: "nodes/a".to_owned() };
    let before = nodes.get_node(get.clone()).await.unwrap().into_inner();
    assert!(before.connected && !before.networks[0].converged);
    let status = clusters.get_cluster_status(v1::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.watches, status.networks, status.leases, status.unconverged_nodes), (1, 1, 1, 1));
    assert_eq!(status.incarnation.len(), 32);

    let report = v1::ReportStatusRequest {
        network: blue.name.clone(),
        applied_token: token,
        ready: true,
        version: "1.2.3".to_owned(),
        ..Default::default()
    };
    let answer = peers.report_status(report.clone()).await.unwrap().into_inner();
    assert!(answer.next_report.unwrap().seconds >= 1);
    let after = nodes.get_node(get).await.unwrap().into_inner();
    assert!(after.networks[0].converged, "{after:?}");
    assert_eq!(after.version, "1.2.3");
    let status = clusters.get_cluster_status(v1::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unconverged_nodes, 0);
    let elsewhere = v1::ReportStatusRequest { network: "networks/red".to_owned(), ..report };
    assert_eq!(peers.report_status(elsewhere).await.unwrap_err().code(), Code::NotFound);

    let list = nodes.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.nodes.len(), 1);
    let unknown = v1::GetNodeRequest { name: "nodes/z".to_owned() };
    assert_eq!(nodes.get_node(unknown).await.unwrap_err().code(), Code::NotFound);
}
