//! What another replica asks this one, and how it takes it that nobody answers.

use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::model::LeaseName;
use tokio::sync::watch;

use super::fixture::*;
use crate::colleagues::{Colleagues, Connections, Refuge};
use crate::config::Config;
use crate::identity::Pki;
use crate::replicas::{Note, Replica};

/// A replica beside a server, that knows the server by this note of it and nobody else.
fn beside(fixture: &Fixture, address: Option<String>) -> Colleagues {
    let config = Config::default();
    let pki = Pki::open_or_create(&fixture.state.path().join("pki"), &config.cluster, SystemTime::now());
    let note = Note { address, ..Note::default() };
    let others: Arc<[Replica]> = Arc::new([Replica { name: "control-1".to_owned(), note }]);
    let name = "control-2".parse().unwrap();
    Colleagues::new(Arc::new(pki.unwrap()), name, watch::channel(others).1)
}

#[tokio::test]
async fn a_replica_tells_the_others_which_nodes_are_connected_with_it() {
    let fixture = start_with(|config| config.name = "control-1".parse().unwrap()).await;
    let blue = create(&fixture.admin().await, "blue", "10.1.0.0/16").await;
    let a = fixture.node("a").await;
    acquire(&a, &blue, 1).await;
    let mut stream = watch(&a, &blue.name, Some(1), Vec::new()).await.unwrap();
    next(&mut stream).await;
    let b = fixture.node("b").await;
    acquire(&b, &blue, 2).await;

    let other = beside(&fixture, Some(fixture.server.listen().to_string()));
    let all = other.connections(Connections::default(), None).await;
    let nodes: Vec<_> = all.to_wire().into_iter().map(|(node, _)| node.to_string()).collect();
    assert_eq!(nodes, ["a", "b"]);
    let generation = fixture.server.shared.signer.pki().authority().generation();
    assert_eq!(all.by_generation(generation), (2, vec![]));
    let lease = LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() };
    assert_eq!(all.streaming().unwrap().into_iter().collect::<Vec<_>>(), [lease]);
    let node = "b".parse().unwrap();
    let one = other.connections(Connections::default(), Some(&node)).await;
    assert_eq!(one.to_wire().into_iter().map(|(node, _)| node).collect::<Vec<_>>(), [node]);
    assert_eq!(other.serving().await, Refuge::There);
}

#[tokio::test]
async fn one_that_cannot_be_asked_may_have_nodes_and_may_serve() {
    let fixture = start().await;
    let nobody = unused_address().await;
    for address in [None, Some(nobody)] {
        let other = beside(&fixture, address.clone());
        let all = other.connections(Connections::default(), None).await;
        assert_eq!(all.unasked_replicas().iter().collect::<Vec<_>>(), ["control-1"], "{address:?}");
        assert!(all.streaming().is_err());
        assert_eq!(other.serving().await, Refuge::Unknown, "{address:?}");
    }
}

#[tokio::test]
async fn one_that_answers_by_another_name_was_not_asked() {
    let fixture = start_with(|config| config.name = "control-3".parse().unwrap()).await;
    let a = fixture.node("a").await;
    let other = beside(&fixture, Some(fixture.server.listen().to_string()));
    let all = other.connections(Connections::default(), None).await;
    assert_eq!(all.unasked_replicas().iter().collect::<Vec<_>>(), ["control-1"]);
    assert!(all.to_wire().is_empty(), "{all:?}");
    drop(a);
}

/// An address where nobody listens any more.
async fn unused_address() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}
