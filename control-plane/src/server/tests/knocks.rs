//! Clients of another CA of this cluster: the state directory may have been lost with its CA.

use std::time::SystemTime;

use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use super::fixture::*;
use crate::connection::tests::secured;
use crate::identity::{IssuedRole, Pki};

async fn status(admin: &Channel) -> v1::ClusterStatus {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await.unwrap().into_inner()
}

async fn try_acquire(
    node: &Channel,
    network: &v1::Network,
    host: u8,
    claim: &[&str],
) -> Result<v1::Lease, tonic::Status> {
    let request = v1::AcquireLeaseRequest {
        network: network.name.clone(),
        instance_id: instance(host),
        claim: claim.iter().map(ToString::to_string).collect(),
        endpoint: Some(endpoint(network.vni.unwrap(), host)),
        ..Default::default()
    };
    let answer = LeaseServiceClient::new(node.clone()).acquire_lease(request).await?;
    Ok(answer.into_inner().lease.unwrap())
}

#[tokio::test]
async fn whoever_knows_another_ca_holds_new_subnets_until_an_agent_shows_what_it_has() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let former = tempfile::tempdir().unwrap();
    Pki::open_or_create(&former.path().join("pki"), &"loden".parse().unwrap(), SystemTime::now()).unwrap();
    let old = bundle(former.path(), IssuedRole::Node, "old");
    let tcp = TcpStream::connect(fixture.server.listen()).await.unwrap();
    let knocking = tcp.local_addr().unwrap().to_string();
    secured(tcp, &old).await.unwrap_err();
    fixture.until("/readyz", "1 host knows another CA of this cluster").await;
    fixture.until("/readyz", "loden-control-plane recover").await;
    let former_life = status(&admin).await.former_life.unwrap();
    assert_eq!((former_life.address, former_life.hosts), (knocking.clone(), 1));

    let refused = try_acquire(&fixture.node("new").await, &blue, 1, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(Reason::FormerLife.is_of(&refused) && reason::retry_after(&refused).is_some(), "{refused:?}");
    assert!(refused.message().contains(&knocking), "{refused:?}");

    // The old one has got a certificate of the new CA.
    let lease = try_acquire(&fixture.node("old").await, &blue, 2, &["10.1.7.0/24"]).await.unwrap();
    assert_eq!(lease.subnets, ["10.1.7.0/24"]);
    let told = status(&admin).await;
    assert!(told.adopting_until.is_some() && told.former_life.is_none(), "{told:?}");
    let refused = try_acquire(&fixture.node("new").await, &blue, 1, &[]).await.unwrap_err();
    assert!(Reason::Adopting.is_of(&refused), "{refused:?}");

    // Nobody lets go of what it has shown, unless an admin says so.
    let release = v1::ReleaseLeaseRequest { name: lease.name, epoch: lease.epoch };
    let mut own = LeaseServiceClient::new(fixture.node("old").await);
    let refused = own.release_lease(release.clone()).await.unwrap_err();
    assert!(Reason::Adopting.is_of(&refused), "{refused:?}");
    LeaseServiceClient::new(admin).release_lease(release).await.unwrap();
}

#[tokio::test]
async fn once_a_lease_was_given_clients_of_another_ca_hold_nothing() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    acquire(&fixture.node("a").await, &blue, 1).await;
    let former = tempfile::tempdir().unwrap();
    Pki::open_or_create(&former.path().join("pki"), &"loden".parse().unwrap(), SystemTime::now()).unwrap();
    let tcp = TcpStream::connect(fixture.server.listen()).await.unwrap();
    secured(tcp, &bundle(former.path(), IssuedRole::Node, "old")).await.unwrap_err();
    fixture.until("/metrics", "loden_handshakes_failed_total 1\n").await;
    assert_eq!(status(&admin).await.former_life, None);
    acquire(&fixture.node("b").await, &blue, 2).await;
}
