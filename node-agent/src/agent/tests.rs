//! A whole agent with a kernel in memory, a scripted control plane and a clock
//! that only moves when everybody waits.

mod endings;
mod refusals;

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use loden_datapath::tables::{AddressKey, RouteKey};
use loden_datapath::{Error, Hint, Step};
use loden_proto::model::{Backend, Network, Peer, Pool, Subnets};
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_proto::v1::watch_peers_response::Update;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::testing::{World, facts, network, peer};

/// Long enough for everything that is due.
async fn settle() {
    sleep(Duration::from_secs(2)).await;
}

fn no_space() -> Error {
    Error::Socket(std::io::Error::from(std::io::ErrorKind::StorageFull))
}

fn is_route_to(step: &Step, number: u8) -> bool {
    matches!(step, Step::SetRoute(key, _) if key.prefix.to_string() == format!("10.244.{number}.0/24"))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_the_peers_are_known() {
    let mut world = World::new();
    let agent = world.start();
    let watch = world.watch().await;
    assert_eq!(watch.request.resume_token, Vec::<u8>::new());
    let page = v1::SnapshotPage { peers: vec![(&peer(1)).into()], ..v1::SnapshotPage::default() };
    watch.send(Update::Snapshot(page), 0).await;
    settle().await;
    assert_eq!((world.kernel.executed(), world.kernel.observations()), (Vec::new(), 0));
    assert!(!world.subnet_file().exists());
    assert_eq!(agent.not_ready().await, "default: peers are not known yet");

    world.snapshot(&watch, &[2], false, 1).await;
    assert_eq!(agent.ready().await, "default: 2 peers from server");
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.2.0/24"]);
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_MTU=1450\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn receivers_are_published_once_the_device_is_there() {
    let mut world = World::new();
    let _running = world.ready_with(&[1], 1).await;
    let acquired = world.server.acquires().borrow()[0].endpoint.clone().unwrap();
    assert_eq!((acquired.address_v4.as_str(), acquired.receivers.len()), ("192.0.2.9", 0));
    let mut endpoints = world.server.endpoints();
    let published = endpoints.wait_for(|endpoints| !endpoints.is_empty()).await.unwrap().clone();
    let Some(v1::receiver::Kind::Vxlan(vtep)) = &published[0].receivers[0].kind else { panic!() };
    let device = world.kernel.tables().devices.into_values().next().unwrap();
    assert_eq!((vtep.mac.clone(), vtep.mtu, vtep.vni), (device.mac.to_string(), 1450, 1));
    settle().await;
    assert_eq!(world.server.endpoints().borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_the_control_plane_writes_nothing_and_is_ready_from_disk() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    watch.delta(&[peer(3)], &[], 2).await;
    world.routes_become(&[1, 2, 3]).await;
    agent.stop().await;
    world.server.up(false);
    fs::remove_file(world.subnet_file()).unwrap();
    let (tables, executed) = (world.kernel.tables(), world.kernel.executed().len());

    let agent = world.start();
    let text = agent.ready().await;
    assert!(text.starts_with("default: 3 peers from disk, control plane away"), "{text}");
    settle().await;
    assert_eq!(world.kernel.executed().len(), executed);
    assert_eq!(world.kernel.tables(), tables);
    assert!(world.subnet_file().exists());

    world.server.up(true);
    let watch = world.watch().await;
    assert_eq!(watch.request.resume_token, [2]);
    watch.heartbeat(false, 2).await;
    agent.told(|ready, text| ready && text == "default: 3 peers from server").await;
    settle().await;
    assert_eq!(world.kernel.executed().len(), executed);
    let acquire = world.server.acquires().borrow().last().cloned().unwrap();
    assert_eq!(acquire.claim, ["10.244.9.0/24"]);
    assert_eq!(acquire.endpoint.unwrap().receivers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_host_is_programmed_from_disk() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    agent.stop().await;
    world.server.up(false);
    let before = world.kernel.tables();
    world.kernel.change(|tables| *tables = Default::default());
    let agent = world.start();
    agent.ready().await;
    assert_eq!(world.kernel.tables(), before);
}

#[tokio::test(start_paused = true)]
async fn stale_peers_go_after_the_first_snapshot_and_not_before() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    agent.stop().await;
    // Without the state the agent knows nothing of what it left behind.
    fs::remove_dir_all(world.state_dir()).unwrap();
    let agent = world.start();
    let watch = world.watch().await;
    settle().await;
    assert_eq!(world.routes().len(), 2);
    world.snapshot(&watch, &[], false, 5).await;
    assert_eq!(agent.ready().await, "default: 0 peers from server");
    assert_eq!(world.routes(), Vec::<String>::new());
    assert!(world.kernel.tables().fdb.is_empty());
}

#[tokio::test(start_paused = true)]
async fn from_disk_nothing_is_deleted_until_the_server_has_spoken() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    agent.stop().await;
    world.server.up(false);
    let (key, route) = world.kernel.tables().routes.into_iter().next().unwrap();
    let stale = RouteKey { prefix: "10.244.77.0/24".parse().unwrap(), ..key };
    world.kernel.change(|tables| _ = tables.routes.insert(stale, route));
    let agent = world.start();
    agent.ready().await;
    settle().await;
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.77.0/24"]);
    world.server.up(true);
    world.watch().await.heartbeat(false, 1).await;
    world.routes_become(&[1]).await;
}

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
async fn drift_is_repaired_when_it_is_hinted_at() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    settle().await;
    let key = *world.kernel.tables().routes.keys().next().unwrap();
    world.kernel.change(|tables| _ = tables.routes.remove(&key));
    world.kernel.hint(&Hint::RouteGone(key));
    world.routes_become(&[1, 2]).await;

    let before = world.kernel.tables();
    let device = *before.devices.keys().next().unwrap();
    world.kernel.change(|tables| Step::DeleteDevice(device).apply(tables));
    world.kernel.hint(&Hint::DeviceGone(device));
    world.routes_become(&[1, 2]).await;
    assert_eq!(world.kernel.tables(), before);
    agent.ready().await;
    settle().await;
    // The same device again: nothing new for the others.
    assert_eq!(world.server.endpoints().borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_hints_a_slow_audit_finds_it() {
    let mut world = World::new();
    let (_agent, watch) = world.ready_with(&[1, 2], 1).await;
    tokio::spawn(async move {
        loop {
            watch.heartbeat(false, 1).await;
            sleep(Duration::from_secs(3)).await;
        }
    });
    world.kernel.change(|tables| tables.routes.clear());
    sleep(Duration::from_secs(400)).await;
    assert_eq!(world.routes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_be_repaired_makes_the_node_not_ready() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    world.kernel.fail(|step| matches!(step, Step::CreateDevice(..)).then(no_space));
    let device = *world.kernel.tables().devices.keys().next().unwrap();
    world.kernel.change(|tables| Step::DeleteDevice(device).apply(tables));
    world.kernel.hint(&Hint::DeviceGone(device));
    let text = agent.not_ready().await;
    assert!(text.contains("loden1a"), "{text}");
    world.kernel.heal();
    agent.ready().await;
}

#[tokio::test(start_paused = true)]
async fn another_instance_makes_the_node_not_ready_and_leaves_the_kernel() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let executed = world.kernel.executed().len();
    world.server.grant(|_| {
        let message = "instance 00 of node-9 is streaming";
        Err(reason::status(Code::AlreadyExists, Reason::AnotherInstance, message))
    });
    watch.end(reason::status(Code::Aborted, Reason::StaleEpoch, "a newer instance has the lease")).await;
    let text = agent.not_ready().await;
    assert_eq!(text, "default: ANOTHER_INSTANCE: instance 00 of node-9 is streaming (ALREADY_EXISTS)");
    settle().await;
    assert_eq!(world.kernel.executed().len(), executed);
    world.server.grant_lease(&network(), peer(9).subnets, 2);
    agent.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_subnet_given_away_is_kept_and_told_and_nothing_of_the_new_one_is_programmed() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    agent.stop().await;
    let executed = world.kernel.executed().len();
    world.server.grant_lease(&network(), peer(20).subnets, 2);
    let agent = world.start();
    let text = agent.told(|ready, text| !ready && text.contains("SUBNET_TAKEN")).await;
    assert!(text.contains("holds 10.244.9.0/24 and was granted 10.244.20.0/24"), "{text}");
    let told = |reports: &Vec<v1::ReportStatusRequest>| {
        reports.last().is_some_and(|last| !last.ready && last.not_ready_reason.starts_with("SUBNET_TAKEN: "))
    };
    let mut reports = world.server.reports();
    // The heir of our subnet is refused, whatever the server says.
    let watch = world.watch().await;
    reports.wait_for(told).await.unwrap();
    let heir = Peer { subnets: peer(9).subnets, ..peer(5) };
    watch.snapshot(&network(), &[peer(1), heir], false, 3).await;
    settle().await;
    assert_eq!(world.kernel.executed().len(), executed);
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
    let endpoint = world.server.endpoints().borrow().last().cloned().unwrap();
    assert_eq!(endpoint.receivers, []);
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_an_endpoint_update() {
    let mut world = World::new();
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    world.kernel.change_facts(|host| *host = facts("192.0.2.99"));
    let address = "192.0.2.99/24".parse().unwrap();
    world.kernel.hint(&Hint::Address(AddressKey { device: "eth0".parse().unwrap(), address }));
    let mut endpoints = world.server.endpoints();
    let moved =
        |endpoints: &Vec<v1::Endpoint>| endpoints.last().is_some_and(|last| last.address_v4 == "192.0.2.99");
    endpoints.wait_for(moved).await.unwrap();
    let device = world.kernel.tables().devices.into_values().next().unwrap();
    assert_eq!(device.local.to_string(), "192.0.2.99");
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_gone_for_a_moment_changes_nothing() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let executed = world.kernel.executed().len();
    world.kernel.change_facts(|host| host.interfaces[0].addresses.clear());
    world.kernel.hint(&Hint::Overrun);
    let text = agent.not_ready().await;
    assert!(text.contains("eth0 has no address"), "{text}");
    world.kernel.change_facts(|host| *host = facts("192.0.2.9"));
    world.kernel.hint(&Hint::Overrun);
    agent.ready().await;
    assert_eq!(world.kernel.executed().len(), executed);
}

#[tokio::test(start_paused = true)]
async fn a_network_without_backend_is_a_lease_that_is_renewed() {
    let mut alloc = network();
    alloc.backend = Backend::Alloc;
    let world = World::with(alloc);
    let agent = world.start();
    assert_eq!(agent.ready().await, "default: 0 peers from server");
    world.server.renewals().wait_for(|renewals| *renewals >= 2).await.unwrap();
    assert_eq!(world.kernel.executed(), []);
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_MTU=1500\n"), "{text}");
    agent.stop().await;

    world.server.up(false);
    let agent = world.start();
    let text = agent.ready().await;
    assert!(text.starts_with("default: 0 peers from disk, control plane away"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_servers_wish_when_to_come_back_is_kept() {
    let mut world = World::new();
    world.server.grant(|_| {
        let after = Duration::from_secs(30);
        Err(reason::status_retry(Code::Unavailable, Reason::Settling, "just started", after))
    });
    let _agent = world.start();
    let mut acquires = world.server.acquires();
    acquires.wait_for(|acquires| acquires.len() == 1).await.unwrap();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(world.server.acquires().borrow().len(), 1);
    world.server.grant_lease(&network(), peer(9).subnets, 1);
    world.watch().await;
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_cannot_be_read_is_named_and_read_again() {
    let mut world = World::new();
    world.kernel.fail_observe(Error::Interrupted);
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("could not be read")).await;
    assert!(text.contains("change too fast"), "{text}");
    assert_eq!(agent.ready().await, "default: 1 peers from server");
    let overview = agent.overview();
    assert_eq!(overview.borrow().applied.peers, 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_belongs_to_another_is_told_until_it_is_accepted() {
    let mut world = World::new();
    let message = "192.0.2.9 is the address of node-4";
    world.server.refuse_endpoints(Some(reason::status(Code::AlreadyExists, Reason::Taken, message)));
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("TAKEN")).await;
    assert_eq!(text, "default: TAKEN: 192.0.2.9 is the address of node-4 (ALREADY_EXISTS)");
    world.server.refuse_endpoints(None);
    agent.ready().await;
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
async fn a_subnet_file_that_cannot_be_written_is_tried_again_soon() {
    let mut world = World::new();
    let draft = world.subnet_file().with_extension("env.new");
    fs::create_dir_all(&draft).unwrap();
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("subnet file cannot be written")).await;
    assert!(text.contains("default"), "{text}");
    settle().await;
    fs::remove_dir(&draft).unwrap();
    let begin = tokio::time::Instant::now();
    agent.ready().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(world.subnet_file().exists());
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

#[tokio::test(start_paused = true)]
async fn a_network_that_is_made_again_with_another_vni_is_joined_again() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let vni = 3.try_into().unwrap();
    let pools = vec![Pool::new("10.50.0.0/16".parse().unwrap(), Some(24)).unwrap()];
    let again = Network { vni, pools, created: UNIX_EPOCH + Duration::from_secs(9), ..network() };
    world.server.grant_lease(&again, Subnets::new(["10.50.9.0/24".parse().unwrap()]).unwrap(), 7);
    world.server.refuse_acquires(|request| {
        let receivers = &request.endpoint.as_ref().unwrap().receivers;
        let old = receivers
            .iter()
            .any(|receiver| matches!(&receiver.kind, Some(v1::receiver::Kind::Vxlan(vtep)) if vtep.vni != 3));
        (old || !request.claim.is_empty()).then(|| Status::invalid_argument("of the network before"))
    });
    watch.end(reason::status(Code::NotFound, Reason::NotFound, "networks/default does not exist")).await;
    let watch = world.watch().await;
    let mut acquires = world.server.acquires();
    acquires.wait_for(|acquires| acquires.last().is_some_and(|last| last.claim.is_empty())).await.unwrap();
    settle().await;
    assert_eq!(world.routes(), ["10.244.1.0/24"], "nobody else is known yet");
    watch.snapshot(&again, &[], false, 2).await;
    agent.told(|ready, text| ready && text == "default: 0 peers from server").await;
    let devices = world.kernel.tables().devices;
    assert!(devices.len() == 1 && devices.values().all(|device| device.vni == vni), "{devices:?}");
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_SUBNET=10.50.9.1/24"), "{text}");
}
