//! The role table over the wire, and what certificates alone decide.

use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_transport::{Bundle, ConnectOptions, Credentials, ServerAddress, connect};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::fixture::*;
use crate::identity::IssuedRole;

#[tokio::test]
async fn everybody_is_told_who_may() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let (a, b) = (fixture.node("a").await, fixture.node("b").await);
    let lease = acquire(&a, &blue, 1).await;
    let reader = fixture.channel(IssuedRole::Reader, "rob").await;
    let get = v1::GetLeaseRequest { name: lease.name.clone() };
    for may in [&a, &admin, &reader] {
        LeaseServiceClient::new(may.clone()).get_lease(get.clone()).await.unwrap();
    }
    let release = v1::ReleaseLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
    let request =
        v1::CreateNetworkRequest { network: Some(network("red", "10.2.0.0/16")), ..Default::default() };
    for (status, message) in [
        (
            LeaseServiceClient::new(b.clone()).get_lease(get).await.unwrap_err(),
            "spiffe://loden/node/b may not call GetLease for node \"a\"; \
             an admin or a reader, or a node for itself, may",
        ),
        (
            LeaseServiceClient::new(b.clone()).release_lease(release).await.unwrap_err(),
            "spiffe://loden/node/b may not call ReleaseLease for node \"a\"; an admin, or a node for itself, may",
        ),
        (
            NetworkServiceClient::new(reader).create_network(request.clone()).await.unwrap_err(),
            "spiffe://loden/reader/rob may not call CreateNetwork; an admin may",
        ),
        (
            NetworkServiceClient::new(b.clone()).create_network(request).await.unwrap_err(),
            "spiffe://loden/node/b may not call CreateNetwork; an admin may",
        ),
        (
            watch(&b, "networks/blue", Some(2), Vec::new()).await.unwrap_err(),
            "networks/blue/leases/b does not exist; acquire it first",
        ),
    ] {
        assert_eq!(status.message(), message);
        let watch = message.contains("acquire");
        assert_eq!(status.code(), if watch { Code::FailedPrecondition } else { Code::PermissionDenied });
    }
    // Another instance of the same node, for instance a cloned disk.
    let status = watch(&a, "networks/blue", Some(9), Vec::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(Reason::StaleEpoch.is_of(&status), "{status:?}");
}

#[tokio::test]
async fn a_servers_certificate_and_another_cas_never_get_in() {
    let (fixture, other) = (start().await, start().await);
    let server = Bundle::read(&fixture.state.path().join("pki/server")).unwrap();
    let stranger = other.bundle(IssuedRole::Admin, "eve");
    // Our CA certificate beside the stranger's own, so that the client does not give up first.
    let stranger = Bundle::from_pem(
        server.ca_pem().to_owned(),
        stranger.certificate_pem().to_owned(),
        stranger.key_pem().to_owned(),
    );
    let address: ServerAddress = fixture.server.listen().to_string().parse().unwrap();
    for bundle in [server, stranger.unwrap()] {
        let credentials = Credentials::fixed(&bundle).unwrap();
        let options = ConnectOptions::default();
        // TLS 1.3: the client may believe to be connected until it reads the alert.
        if let Ok(channel) = connect(std::slice::from_ref(&address), &credentials, &options).await {
            let mut networks = NetworkServiceClient::new(channel);
            networks.list_networks(v1::ListNetworksRequest::default()).await.unwrap_err();
        }
    }
    fixture.until("/metrics", "loden_handshakes_failed_total 2").await;
    assert!(fixture.get("/metrics").await.contains("loden_connections_opened_total 0"));
}

#[tokio::test]
async fn reflection_lists_every_service_to_any_client() {
    let fixture = start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(fixture.node("a").await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let services: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["Network", "Lease", "Peer", "Node", "Cluster"] {
        assert!(services.contains(&format!("loden.v1.{service}Service").as_str()), "{services:?}");
    }
    assert!(services.contains(&"grpc.health.v1.Health"), "{services:?}");
}
