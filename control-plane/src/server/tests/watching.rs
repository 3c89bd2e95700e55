//! WatchPeers over the wire.

use loden_proto::reason::Reason;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use tonic::Code;

use super::fixture::*;

#[tokio::test]
async fn a_node_sees_the_others_come_change_and_go() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let (a, b) = (fixture.node("a").await, fixture.node("b").await);
    acquire(&a, &blue, 1).await;
    let mut stream = watch(&a, &blue.name, Some(1), Vec::new()).await.unwrap();
    let (update, token) = next(&mut stream).await;
    let Update::Snapshot(snapshot) = update else { panic!("{update:?}") };
    assert!(snapshot.last && snapshot.peers.is_empty() && !snapshot.adopting, "without itself: {snapshot:?}");
    assert_eq!(snapshot.network.as_ref(), Some(&blue));

    let lease = acquire(&b, &blue, 2).await;
    let (update, _) = next(&mut stream).await;
    let Update::Delta(delta) = update else { panic!("{update:?}") };
    assert_eq!((nodes(&delta.upserts), delta.last), (vec!["b"], true));
    assert_eq!(delta.upserts[0].subnets, lease.subnets);

    let mut leases = LeaseServiceClient::new(b);
    let release = v1::ReleaseLeaseRequest { name: lease.name, epoch: lease.epoch };
    leases.release_lease(release).await.unwrap();
    let (update, _) = next(&mut stream).await;
    let Update::Delta(delta) = update else { panic!("{update:?}") };
    assert_eq!(delta.removed, ["b"]);

    // From where it was before all that, what came and went is nothing; an observer sees the node itself.
    let mut resumed = watch(&a, &blue.name, Some(1), token).await.unwrap();
    let first = resumed.message().await.unwrap().unwrap();
    let nothing = match first.update.as_ref().unwrap() {
        Update::Heartbeat(_) => true,
        Update::Delta(delta) => delta.upserts.is_empty() && delta.removed.iter().all(|node| node == "b"),
        Update::Snapshot(_) => false,
    };
    assert!(nothing, "{first:?}");
    let mut observer = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    let (update, _) = next(&mut observer).await;
    let Update::Snapshot(snapshot) = update else { panic!("{update:?}") };
    assert_eq!(nodes(&snapshot.peers), ["a"]);
}

#[tokio::test]
async fn an_idle_watch_carries_heartbeats() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let mut observer = watch(&admin, &blue.name, None, Vec::new()).await.unwrap();
    next(&mut observer).await;
    for _ in 0..3 {
        let message = tokio::time::timeout(LONG, observer.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(message.update, Some(Update::Heartbeat(_))), "{message:?}");
        assert!(!message.resume_token.is_empty());
    }
}

#[tokio::test]
async fn an_open_that_cannot_be_is_refused_with_its_code() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let status = watch(&admin, "networks/blue", None, Vec::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(Reason::NotFound.is_of(&status), "{status:?}");
    let status = watch(&admin, "blue", None, Vec::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let a = fixture.node("a").await;
    let status = watch(&a, "networks/blue", None, Vec::new()).await.unwrap_err();
    assert_eq!(status.message(), "instance_id: is required");
}

#[tokio::test]
async fn a_second_instance_is_refused_while_the_first_one_watches() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let a = fixture.node("a").await;
    acquire(&a, &blue, 1).await;
    let stream = watch(&a, &blue.name, Some(1), Vec::new()).await.unwrap();
    let request = v1::AcquireLeaseRequest {
        boot_id: String::new(),
        underlay_prefixes: Vec::new(),
        network: blue.name.clone(),
        instance_id: instance(7),
        claim: Vec::new(),
        endpoint: Some(endpoint(blue.vni.unwrap(), 7)),
    };
    let mut leases = LeaseServiceClient::new(a);
    let status = leases.acquire_lease(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(Reason::AnotherInstance.is_of(&status), "{status:?}");
    let get = v1::GetNodeRequest { name: "nodes/a".into() };
    let node = NodeServiceClient::new(admin).get_node(get).await.unwrap().into_inner();
    assert_eq!(node.refused_agent.unwrap().instance_id, instance(7));
    drop(stream);
    fixture.until("/metrics", "loden_watches 0\n").await;
    leases.acquire_lease(request).await.unwrap();
}

#[tokio::test]
async fn a_copy_of_a_nodes_disk_is_refused_while_it_watches_and_the_node_itself_never_is() {
    let fixture = start().await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    let (here, there) = ("1".repeat(32), "2".repeat(32));
    let acquire = |boot: &str, host| v1::AcquireLeaseRequest {
        network: blue.name.clone(),
        instance_id: instance(1),
        claim: Vec::new(),
        endpoint: Some(endpoint(blue.vni.unwrap(), host)),
        boot_id: boot.to_owned(),
        underlay_prefixes: Vec::new(),
    };
    let open = |boot: &str| v1::WatchPeersRequest {
        network: blue.name.clone(),
        resume_token: Vec::new(),
        instance_id: instance(1),
        boot_id: boot.to_owned(),
        seen_token: Vec::new(),
    };
    let (a, copy) = (fixture.node("a").await, fixture.node("a").await);
    let (mut leases, mut peers) = (LeaseServiceClient::new(a.clone()), PeerServiceClient::new(a));
    let (mut copys_leases, mut copys_peers) =
        (LeaseServiceClient::new(copy.clone()), PeerServiceClient::new(copy));
    leases.acquire_lease(acquire(&here, 1)).await.unwrap();
    let first = peers.watch_peers(open(&here)).await.unwrap();

    for status in [
        copys_leases.acquire_lease(acquire(&there, 9)).await.unwrap_err(),
        copys_peers.watch_peers(open(&there)).await.unwrap_err(),
        // Whoever says nothing gets no further.
        copys_leases.acquire_lease(acquire("", 9)).await.unwrap_err(),
        copys_peers.watch_peers(open("")).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(Reason::AnotherInstance.is_of(&status), "{status:?}");
        assert!(status.message().contains("was its disk copied?"), "{status:?}");
        assert!(
            status.message().contains("of boot id 1111…") && !status.message().contains(&here),
            "{status:?}"
        );
    }
    let mut nodes = NodeServiceClient::new(admin);
    let get = v1::GetNodeRequest { name: "nodes/a".to_owned() };
    let node = nodes.get_node(get).await.unwrap().into_inner();
    let refused = node.refused_agent.unwrap();
    assert!(node.connected && !node.address.is_empty() && node.address != refused.address);
    let lease = v1::GetLeaseRequest { name: format!("{}/leases/a", blue.name) };
    let lease = leases.get_lease(lease).await.unwrap().into_inner();
    assert_eq!(lease.endpoint.unwrap().address_v4, "192.0.2.1", "the copy has taken nothing");

    // The node comes back over a new connection while the old one is still there.
    let back = fixture.node("a").await;
    LeaseServiceClient::new(back.clone()).acquire_lease(acquire(&here, 1)).await.unwrap();
    let second = PeerServiceClient::new(back).watch_peers(open(&here)).await.unwrap();
    drop((first, second));

    // Nobody watches: who acquires has it, and the other must acquire it again.
    fixture.until("/metrics", "loden_watches 0\n").await;
    copys_leases.acquire_lease(acquire(&there, 9)).await.unwrap();
    let status = peers.watch_peers(open(&here)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().ends_with("acquire it first"), "{status:?}");
}
