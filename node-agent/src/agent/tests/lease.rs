//! The lease: lost, refused, of another network of the same name or of one without backend.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use loden_datapath::{Hint, HostFacts, Interface};
use loden_proto::model::{Backend, Network, Peer, Pool, Subnets};
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::settle;
use crate::testing::{World, facts, network, peer};

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
async fn a_network_without_backend_is_followed_and_nothing_is_programmed() {
    let mut alloc = network();
    alloc.backend = Backend::Alloc;
    let mut world = World::with(alloc);
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    watch.delta(&[peer(3)], &["node-1", "node-2"], 2).await;
    agent.told(|ready, text| ready && text == "default: 1 peers from server").await;
    let mut reports = world.server.reports();
    let told = |reports: &Vec<v1::ReportStatusRequest>| reports.last().is_some_and(|last| last.ready);
    reports.wait_for(told).await.unwrap();
    assert_eq!(world.kernel.executed(), []);
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_MTU=1500\n"), "{text}");
    agent.stop().await;

    world.server.up(false);
    let agent = world.start();
    let text = agent.ready().await;
    assert!(text.starts_with("default: 1 peers from disk, control plane away"), "{text}");
    world.server.up(true);
    assert_eq!(world.watch().await.request.resume_token, [2]);
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

/// However long the server was away, and however long the waits between attempts have become.
#[tokio::test(start_paused = true)]
async fn an_endpoint_is_published_as_soon_as_the_server_is_back() {
    let mut world = World::new();
    let (_agent, mut watch) = world.ready_with(&[1], 1).await;
    let away = || Some(Status::unavailable("away"));
    for number in 50..60 {
        world.server.refuse_watches(away());
        world.server.refuse_endpoints(away());
        watch.end(Status::unavailable("away")).await;
        let address = format!("192.0.2.{number}");
        world.kernel.change_facts(|host| *host = facts(&address));
        world.kernel.hint(&Hint::Overrun);
        sleep(Duration::from_secs(60)).await;
        world.server.refuse_endpoints(None);
        world.server.refuse_watches(None);
        watch = world.watch().await;
        let back = Instant::now();
        let is_there = |endpoints: &Vec<v1::Endpoint>| {
            endpoints.last().is_some_and(|last| format!("{last:?}").contains(&address))
        };
        world.server.endpoints().wait_for(is_there).await.unwrap();
        assert!(back.elapsed() < Duration::from_millis(100), "{:?}", back.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_what_is_wanted_no_more_is_told_no_more() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let message = "192.0.2.99 is the address of node-4";
    world.server.refuse_endpoints(Some(reason::status(Code::InvalidArgument, Reason::Taken, message)));
    let moves = |to: &str| {
        world.kernel.change_facts(|host| *host = facts(to));
        world.kernel.hint(&Hint::Overrun);
    };
    moves("192.0.2.99");
    agent.told(|_, text| text.contains("node-4")).await;
    moves("192.0.2.9");
    let text = agent.told(|_, text| !text.contains("node-4")).await;
    assert_eq!(text, "default: 1 peers from server");
}

/// The network has got a pool of another family, of which the node has nothing yet, and the server has just started.
#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_another_family_goes_on_with_the_one_that_it_has() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    agent.stop().await;
    let (tables, executed) = (world.kernel.tables(), world.kernel.executed().len());
    world.server.grant(|_| {
        let after = Duration::from_secs(10);
        Err(reason::status_retry(Code::Unavailable, Reason::Settling, "just started", after))
    });
    let asked = world.server.acquires().borrow().len();
    let agent = world.start();
    let text = agent.told(|_, text| text.contains("SETTLING")).await;
    let settling = "control plane refuses: SETTLING: just started (UNAVAILABLE)";
    assert_eq!(text, format!("default: 2 peers from disk, {settling}"));
    agent.ready().await;
    sleep(Duration::from_secs(9)).await;
    assert_eq!(world.server.acquires().borrow().len(), asked + 1, "not before it is time");
    assert_eq!(world.kernel.executed().len(), executed);
    assert_eq!(world.kernel.tables(), tables);

    let (both, own) = both_families();
    world.server.grant_lease(&both, own, 2);
    let watch = world.watch().await;
    watch.snapshot(&both, &[peer(1), peer(2)], false, 2).await;
    agent.told(|ready, text| ready && text == "default: 2 peers from server").await;
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.2.0/24"]);
    let text = world.subnet_env();
    assert!(text.contains("FLANNEL_SUBNET=10.244.9.1/24") && text.contains("2001:db8:0:9::1/64"), "{text}");
}

/// The network with a pool of another family on top, and the node's subnets in it.
fn both_families() -> (Network, Subnets) {
    let added = Pool::new("2001:db8::/48".parse().unwrap(), None).unwrap();
    let both = Network { pools: [network().pools, vec![added]].concat(), revision: 2, ..network() };
    let own = [peer(9).subnets.iter().next().unwrap(), "2001:db8:0:9::/64".parse().unwrap()];
    (both, Subnets::new(own).unwrap())
}

/// It asks at once, and again when it was told to; meanwhile it holds what it has.
#[tokio::test(start_paused = true)]
async fn a_pool_of_another_family_is_asked_for_while_the_agent_runs() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    settle().await;
    let (tables, executed) = (world.kernel.tables(), world.kernel.executed().len());
    let refusals = AtomicU32::new(0);
    world.server.grant(move |_| {
        let after = Duration::from_secs(10);
        let settling = reason::status_retry(Code::Unavailable, Reason::Settling, "just started", after);
        let exhausted = reason::status(Code::ResourceExhausted, Reason::Exhausted, "nothing is free");
        Err(if refusals.fetch_add(1, Ordering::Relaxed) == 0 { settling } else { exhausted })
    });
    let mut acquires = world.server.acquires();
    let asked = acquires.borrow().len();
    let (both, own) = both_families();
    watch.network(&both, 2).await;
    let told = agent.told(|_, text| text.contains("SETTLING")).await;
    assert!(told.starts_with("default: 2 peers from server"), "{told}");
    sleep(Duration::from_secs(9)).await;
    assert_eq!(acquires.borrow().len(), asked + 1, "not before it is time");
    let told = agent.told(|_, text| text.contains("EXHAUSTED")).await;
    assert!(told.starts_with("default: 2 peers from server"), "{told}");
    agent.ready().await;
    assert_eq!((world.kernel.tables(), world.kernel.executed().len()), (tables, executed));

    world.kernel.change_facts(|host| *host = facts("192.0.2.99"));
    world.kernel.hint(&Hint::Overrun);
    let moved =
        |endpoints: &Vec<v1::Endpoint>| endpoints.last().is_some_and(|last| last.address_v4 == "192.0.2.99");
    world.server.endpoints().wait_for(moved).await.unwrap();

    world.server.grant_lease(&both, own, 1);
    let granted = acquires.wait_for(|acquires| acquires.len() >= asked + 3).await.unwrap().clone();
    assert!(granted[asked..].iter().all(|request| request.claim == ["10.244.9.0/24"]), "{granted:?}");
    settle().await;
    let text = world.subnet_env();
    assert!(text.contains("FLANNEL_SUBNET=10.244.9.1/24") && text.contains("2001:db8:0:9::1/64"), "{text}");
    assert_eq!(agent.ready().await, "default: 2 peers from server");
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.2.0/24"]);
    let asked = acquires.borrow().len();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(acquires.borrow().len(), asked, "it has what it wants");
}

/// The pool that the subnet is of was lost with the store, and is created again while leases are collected.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_invalid_for_a_while_is_made_again() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let refusals = AtomicU32::new(0);
    world.server.refuse_acquires(move |request| {
        let adopting = || reason::status(Code::Unavailable, Reason::Adopting, "a claim is needed");
        match refusals.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Some(Status::invalid_argument("claim 10.244.9.0/24 is in no pool")),
            _ => request.claim.is_empty().then(adopting),
        }
    });
    let asked = world.server.acquires().borrow().len();
    watch.end(reason::status(Code::NotFound, Reason::NotFound, "networks/default does not exist")).await;
    let mut acquires = world.server.acquires();
    let claims = acquires.wait_for(|acquires| acquires.len() >= asked + 4).await.unwrap();
    let claims: Vec<_> = claims[asked..].iter().map(|request| request.claim.clone()).collect();
    let own = ["10.244.9.0/24".to_owned()];
    assert_eq!(claims[..4], [&own[..], &own, &[], &own], "the claim comes again");
    drop(agent);
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
    assert!(
        devices.len() == 1 && devices.values().all(|device| device.vxlan().unwrap().vni == vni),
        "{devices:?}"
    );
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_SUBNET=10.50.9.1/24"), "{text}");
}

/// Pods that run have the MTU of when they were started; new ones are told the tunnel's.
#[tokio::test(start_paused = true)]
async fn peers_are_told_of_pods_that_were_started_with_a_smaller_mtu() {
    let mut world = World::new();
    let bridge = |mtu: u32| {
        let nic = facts("10.244.9.1").interfaces.remove(0);
        move |host: &mut HostFacts| {
            host.interfaces.truncate(1);
            host.interfaces.push(Interface { name: "cni0".parse().unwrap(), mtu, ..nic.clone() });
        }
    };
    world.kernel.change_facts(bridge(1400));
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    let mut endpoints = world.server.endpoints();
    let mut told = async |mtu: u32| {
        let is_told = |endpoints: &Vec<v1::Endpoint>| {
            let receivers = endpoints.last().into_iter().flat_map(|last| &last.receivers);
            receivers.filter_map(|receiver| receiver.kind.as_ref()).any(|kind| match kind {
                v1::receiver::Kind::Vxlan(vtep) => vtep.mtu == mtu,
                _ => false,
            })
        };
        endpoints.wait_for(is_told).await.unwrap();
    };
    told(1400).await;
    assert!(world.subnet_env().contains("FLANNEL_MTU=1450\n"));
    world.kernel.change_facts(bridge(9000));
    world.kernel.hint(&Hint::DeviceGone("cni0".parse().unwrap()));
    told(1450).await;
}
