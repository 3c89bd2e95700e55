//! Peers: the whole set, changes, bad ones, and what may be deleted.

use std::fs;
use std::sync::{Arc, Mutex};

use loden_proto::model::{Network, Peer};
use loden_proto::v1;
use loden_proto::v1::watch_peers_response::Update;
use tonic::Status;

use super::{is_route_to, no_space, settle};
use crate::testing::{World, network, peer};

#[tokio::test(start_paused = true)]
async fn a_delta_costs_its_own_steps_and_no_look_at_the_kernel() {
    let mut world = World::new();
    let (_agent, watch) = world.ready_with(&[1, 2, 3], 1).await;
    settle().await;
    let (executed, observations) = (world.kernel.executed().len(), world.kernel.observations());
    watch.delta(&[peer(4)], &["node-2"], 2).await;
    world.routes_become(&[1, 3, 4]).await;
    assert_eq!(world.kernel.executed().len() - executed, 6);
    assert_eq!(world.kernel.observations(), observations);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_on_disk_before_it_is_in_the_kernel() {
    let mut world = World::new();
    let (_agent, watch) = world.ready_with(&[1], 1).await;
    let file = world.state_dir().join("networks/default.state");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let on_disk = Arc::clone(&seen);
    world.kernel.fail(move |_| {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        on_disk.lock().unwrap().push(text.contains("node-7"));
        None
    });
    watch.delta(&[peer(7)], &[], 2).await;
    world.routes_become(&[1, 7]).await;
    assert_eq!(*seen.lock().unwrap(), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_takes_no_peer_away_and_is_resumed() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    let executed = world.kernel.executed().len();
    watch.end(Status::unavailable("draining")).await;
    let watch = world.watch().await;
    assert_eq!(watch.request.resume_token, [1]);
    // Silence: nine seconds later it is opened again.
    let watch = {
        let again = world.watch().await;
        drop(watch);
        again
    };
    watch.heartbeat(false, 1).await;
    agent.told(|ready, text| ready && text == "default: 2 peers from server").await;
    assert_eq!(world.kernel.executed().len(), executed);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_adopts_nobody_is_deleted_and_the_lease_is_claimed() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2, 3], 1).await;
    watch.end(Status::unavailable("gone")).await;
    world.server.refuse_watches(Some(Status::failed_precondition("no lease in the network")));
    let mut acquires = world.server.acquires();
    let claimed = acquires.wait_for(|acquires| acquires.len() > 1).await.unwrap().last().cloned().unwrap();
    assert_eq!(claimed.claim, ["10.244.9.0/24"]);
    world.server.refuse_watches(None);

    let watch = world.watch().await;
    world.snapshot(&watch, &[1], true, 4).await;
    watch.delta(&[peer(5)], &["node-2"], 5).await;
    world.routes_become(&[1, 2, 3, 5]).await;
    settle().await;
    assert!(agent.ready().await.starts_with("default: 4 peers from server"));
    assert_eq!(world.routes().len(), 4);
    let mut reports = world.server.reports();
    let told =
        |reports: &Vec<v1::ReportStatusRequest>| reports.last().is_some_and(|last| last.applied_token == [5]);
    reports.wait_for(told).await.unwrap();

    world.snapshot(&watch, &[1, 5], false, 6).await;
    world.routes_become(&[1, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn a_set_that_was_never_whole_is_not_ready() {
    let mut world = World::new();
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], true, 4).await;
    let text = agent.told(|_, text| text.contains("collecting")).await;
    assert!(text.starts_with("default: the control plane is still collecting leases"), "{text}");
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
    world.snapshot(&watch, &[1, 2], false, 5).await;
    assert_eq!(agent.ready().await, "default: 2 peers from server");
}

#[tokio::test(start_paused = true)]
async fn a_bad_peer_is_named_and_delays_nobody() {
    let mut world = World::new();
    let agent = world.start();
    let watch = world.watch().await;
    let thief = Peer { subnets: peer(9).subnets, ..peer(1) };
    let mut unreadable = v1::Peer::from(&peer(2));
    unreadable.subnets.clear();
    let page = v1::SnapshotPage {
        peers: vec![(&thief).into(), unreadable, (&peer(3)).into()],
        last: true,
        network: Some((&world.network).into()),
        adopting: false,
    };
    watch.send(Update::Snapshot(page), 1).await;
    assert_eq!(agent.ready().await, "default: 1 peers from server, 2 left out");
    assert_eq!(world.routes(), ["10.244.3.0/24"]);
    let mut reports = world.server.reports();
    let report = reports.wait_for(|reports| reports.iter().any(|report| report.ready)).await.unwrap();
    let named: Vec<_> = report.last().unwrap().failures.iter().map(|failure| failure.node.clone()).collect();
    assert_eq!(named, ["node-1", "node-2"]);
    assert!(report.last().unwrap().failures[0].message.contains("10.244.9.0/24"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_the_kernel_refuses_is_named_and_tried_again() {
    let mut world = World::new();
    let agent = world.start();
    let watch = world.watch().await;
    world.kernel.fail(|step| is_route_to(step, 2).then(no_space));
    world.snapshot(&watch, &[1, 2, 3], false, 1).await;
    world.routes_become(&[1, 3]).await;
    let text = agent.told(|_, text| text.contains("node-2")).await;
    assert!(text.contains("1 peers could not be programmed, first node-2"), "{text}");
    assert!(!world.subnet_file().exists());
    watch.delta(&[peer(4)], &[], 2).await;
    world.routes_become(&[1, 3, 4]).await;
    world.kernel.heal();
    assert_eq!(agent.ready().await, "default: 4 peers from server");
    assert_eq!(world.routes().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_moves_without_a_change_of_the_peers_is_reported_too() {
    let mut world = World::new();
    let (_agent, watch) = world.ready_with(&[1], 1).await;
    watch.heartbeat(false, 7).await;
    let mut reports = world.server.reports();
    let reported = |reports: &Vec<v1::ReportStatusRequest>| {
        reports.last().is_some_and(|report| report.applied_token == [7])
    };
    reports.wait_for(reported).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_rolled_back_is_believed_about_the_network() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1], 1).await;
    let with = |revision, mtu: u32| Network { revision, mtu: mtu.try_into().ok(), ..network() };
    let mut overview = agent.overview();
    watch.snapshot(&with(50, 1400), &[peer(1)], false, 2).await;
    overview.wait_for(|overview| overview.applied.mtu == 1400).await.unwrap();
    watch.snapshot(&with(7, 1300), &[peer(1)], true, 3).await;
    overview.wait_for(|overview| overview.applied.mtu == 1300).await.unwrap();
    // Acquired again, as whenever the server adopts.
    settle().await;
    assert_eq!(overview.borrow().applied.mtu, 1300);
}
