//! Who is told the keys of UDP tunnels.

use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use tonic::transport::Channel;

use super::fixture::*;
use crate::identity::IssuedRole;

/// Of a node, by its number.
const fn key(host: u8) -> u64 {
    0x0123_4567_89ab_cd00 + host as u64
}

async fn acquire(node: &Channel, network: &v1::Network, host: u8) -> v1::Lease {
    let family = v1::AddressFamily::Ipv4.into();
    let vni = network.vni.unwrap();
    let udp = v1::UdpReceiver { family, vni, port: 8285 + u32::from(host), key: key(host), mtu: 1460 };
    let receivers = vec![v1::Receiver { kind: Some(v1::receiver::Kind::Udp(udp)) }];
    let request = v1::AcquireLeaseRequest {
        network: network.name.clone(),
        instance_id: instance(host),
        endpoint: Some(v1::Endpoint { receivers, ..endpoint(vni, host) }),
        ..Default::default()
    };
    LeaseServiceClient::new(node.clone()).acquire_lease(request).await.unwrap().into_inner().lease.unwrap()
}

/// The keys of an endpoint.
fn keys(endpoint: Option<&v1::Endpoint>) -> Vec<u64> {
    let receivers = endpoint.unwrap().receivers.iter();
    let key = |receiver: &v1::Receiver| match receiver.kind {
        Some(v1::receiver::Kind::Udp(udp)) => Some(udp.key),
        _ => None,
    };
    receivers.filter_map(key).collect()
}

fn peers_keys(update: &Update) -> Vec<u64> {
    let peers = match update {
        Update::Snapshot(page) => &page.peers,
        Update::Delta(delta) => &delta.upserts,
        Update::Heartbeat(_) => panic!("a heartbeat has no peers"),
    };
    peers.iter().flat_map(|peer| keys(peer.endpoint.as_ref())).collect()
}

#[tokio::test]
async fn keys_are_told_to_peers_and_to_nobody_else() {
    let fixture = start().await;
    let (admin, reader) = (fixture.admin().await, fixture.channel(IssuedRole::Reader, "eve").await);
    let backend = Some(v1::network::Backend::Udp(v1::UdpBackend::default()));
    let network = Some(v1::Network { backend, ..network("blue", "10.1.0.0/16") });
    let request = v1::CreateNetworkRequest { network, ..Default::default() };
    let blue = NetworkServiceClient::new(admin.clone()).create_network(request).await.unwrap().into_inner();
    let (a, b) = (fixture.node("a").await, fixture.node("b").await);
    let lease = acquire(&a, &blue, 1).await;
    assert_eq!(keys(lease.endpoint.as_ref()), [key(1)], "its own");
    let get = v1::GetLeaseRequest { name: lease.name.clone() };
    let own = LeaseServiceClient::new(a.clone()).get_lease(get.clone()).await.unwrap().into_inner();
    assert_eq!(keys(own.endpoint.as_ref()), [key(1)]);

    acquire(&b, &blue, 2).await;
    let mut peer = watch(&b, &blue.name, Some(2), Vec::new()).await.unwrap();
    assert_eq!(peers_keys(&next(&mut peer).await.0), [key(1)]);
    let mut observers = Vec::new();
    for channel in [&admin, &reader] {
        let mut leases = LeaseServiceClient::new(channel.clone());
        let one = leases.get_lease(get.clone()).await.unwrap().into_inner();
        assert_eq!(keys(one.endpoint.as_ref()), [0]);
        let list = v1::ListLeasesRequest { parent: blue.name.clone(), ..Default::default() };
        let all = leases.list_leases(list).await.unwrap().into_inner().leases;
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|lease| keys(lease.endpoint.as_ref()) == [0]), "{all:?}");
        let mut observer = watch(channel, &blue.name, None, Vec::new()).await.unwrap();
        assert_eq!(peers_keys(&next(&mut observer).await.0), [0, 0]);
        observers.push(observer);
    }
    acquire(&fixture.node("c").await, &blue, 3).await;
    assert_eq!(peers_keys(&next(&mut peer).await.0), [key(3)]);
    for observer in &mut observers {
        assert_eq!(peers_keys(&next(observer).await.0), [0]);
    }
}
