//! One control plane and a thousand agents: everybody learns of everybody, and of every change.
//!
//! The control plane is the real program; the agents are whole ones on fake datapaths, in a
//! process of their own, each with its own identity and its own mTLS connection. How fast it all
//! is, is `make bench NAME=fanout`'s to tell.

#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use loden_tests::bench;
use loden_tests::bench::swarm::{Answer, Kind, Order, Swarm};
use loden_tests::deployment::Deployment;

const AGENTS: usize = 1000;
/// As many agents may be joining at the same time.
const AT_ONCE: u16 = 300;
const NETWORK: &str = "default";
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_thousand_agents_see_one_change_that_is_encoded_once() {
    bench::raise_descriptor_limit().unwrap();
    let mut deployment = Deployment::start("thousand", &[]).await.unwrap();
    deployment.create_network(NETWORK, "10.0.0.0/8").await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_loden-bench"));
    let mut swarm = Swarm::start(&deployment, program, Kind::Agents, AGENTS).await.unwrap();

    // Done when each agent has programmed the other 999 and the node that changes.
    let join = Order::Join { network: NETWORK.to_owned(), at_once: Some(AT_ONCE) };
    swarm.order(&join, PATIENCE).await.unwrap();
    assert_eq!(metric(&deployment, "loden_streaming_leases").await, AGENTS);
    assert_eq!(metric(&deployment, "loden_leases_active").await, AGENTS + 1);

    let encoded = metric(&deployment, "loden_entry_encodings_total").await;
    assert_eq!(change(&mut swarm).await, AGENTS);
    assert_eq!(metric(&deployment, "loden_entry_encodings_total").await, encoded + 1);

    swarm.order(&Order::Mark, PATIENCE).await.unwrap();
    deployment.control.kill9().await.unwrap();
    deployment.control.start().await.unwrap();
    swarm.order(&Order::Rejoined, PATIENCE).await.unwrap();
    assert_eq!(change(&mut swarm).await, AGENTS);
    let snapshots = metric(&deployment, "loden_snapshot_encodings_total").await;
    assert_eq!(snapshots, 0, "those who come back continue where they were");
}

/// Changes the address of one node; answers how many agents have programmed it.
async fn change(swarm: &mut Swarm) -> usize {
    let order = Order::Change { count: 1, pause: Duration::ZERO };
    match swarm.order(&order, PATIENCE).await.unwrap() {
        Answer::Changed { latencies } => latencies.len(),
        other => panic!("the swarm has answered {other:?}"),
    }
}

async fn metric(deployment: &Deployment, name: &str) -> usize {
    let (status, text) = deployment.control.get("/metrics").await.unwrap();
    assert!(status.is_success(), "{status}");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("/metrics has no {name}:\n{text}")).parse().unwrap()
}
