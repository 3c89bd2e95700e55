//! A client that reads nothing of its watch.

use std::time::Duration;

use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use loden_proto::v1::{self, WatchPeersRequest};

use super::fixture::*;
use super::raw::Raw;
use crate::identity::IssuedRole;

#[tokio::test]
async fn a_client_that_reads_nothing_is_ended_with_a_reason_and_costs_the_others_nothing() {
    let fixture = start_with(|config| config.max_lag = Duration::from_millis(700)).await;
    let admin = fixture.admin().await;
    let blue = create(&admin, "blue", "10.1.0.0/16").await;
    for host in 1..=2 {
        acquire(&fixture.node(["a", "b"][usize::from(host) - 1]).await, &blue, host).await;
    }
    let b = fixture.node("b").await;
    let mut reading = watch(&b, &blue.name, Some(2), Vec::new()).await.unwrap();
    next(&mut reading).await;
    // A window of a few bytes per stream, and a watch on it that is never read.
    let stuck = Raw::connect(&fixture, IssuedRole::Node, "a", 64).await;
    let request = WatchPeersRequest {
        boot_id: String::new(),
        network: "networks/blue".to_owned(),
        resume_token: Vec::new(),
        instance_id: instance(1),
        seen_token: Vec::new(),
    };
    let response = stuck.call("loden.v1.PeerService/WatchPeers", &request).await.unwrap();
    assert_eq!(response.status(), 200);

    // Changes go on, and the one who reads gets each of them.
    for host in 10..30 {
        acquire(&fixture.node(&format!("n{host}")).await, &blue, host).await;
        let (update, _) = next(&mut reading).await;
        let Update::Delta(delta) = update else { panic!("{update:?}") };
        assert_eq!(nodes(&delta.upserts), [format!("n{host}")]);
    }
    stuck.reset().await;
    fixture.until("/metrics", "loden_connections_ended_total{reason=\"slow\"} 1\n").await;
    let mut status = NodeServiceClient::new(admin);
    let node = status.get_node(v1::GetNodeRequest { name: "nodes/a".to_owned() }).await.unwrap().into_inner();
    assert!(!node.connected);
    assert!(node.disconnect_reason.starts_with("the client has not read for"), "{node:?}");
    // The one who reads is still there.
    let node = status.get_node(v1::GetNodeRequest { name: "nodes/b".to_owned() }).await.unwrap().into_inner();
    assert!(node.connected);
    drop(response);
}
