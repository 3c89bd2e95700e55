//! How an agent starts: with and without its control plane, over a kernel that is as it left it or not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use loden_datapath::tables::{Route, RouteKey};
use loden_proto::model::{Epoch, Network, Pool};
use loden_proto::v1;
use loden_proto::v1::watch_peers_response::Update;

use super::settle;
use crate::state::{Content, Held, Rest, StateDir};
use crate::testing::{World, network, peer};

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
    assert!(!world.subnet_file().exists() && !world.cni_config_dir().exists());
    assert_eq!(agent.not_ready().await, "default: peers are not known yet");

    world.snapshot(&watch, &[2], false, 1).await;
    assert_eq!(agent.ready().await, "default: 2 peers from server");
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.2.0/24"]);
    let text = fs::read_to_string(world.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_MTU=1450\n"), "{text}");
    let list = fs::read_to_string(conflist(&world)).unwrap();
    assert!(
        ["\"10.244.9.0/24\"", "\"mtu\": 1450", "lodenbr1"].iter().all(|part| list.contains(part)),
        "{list}"
    );
}

fn conflist(world: &World) -> PathBuf {
    world.cni_config_dir().join("10-loden-default.conflist")
}

#[tokio::test(start_paused = true)]
async fn without_a_subnet_there_is_no_cni_configuration_and_with_one_it_stays() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    agent.stop().await;
    assert!(conflist(&world).exists());
    world.server.up(false);
    let agent = world.start();
    assert!(conflist(&world).exists());
    agent.ready().await;
    agent.stop().await;

    fs::remove_dir_all(world.state_dir()).unwrap();
    let agent = world.start();
    agent.not_ready().await;
    assert!(!conflist(&world).exists());
    world.server.up(true);
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 2).await;
    agent.ready().await;
    assert!(conflist(&world).exists());
}

#[tokio::test(start_paused = true)]
async fn a_cni_configuration_that_cannot_be_written_is_told_and_tried_again() {
    let mut world = World::new();
    fs::write(world.cni_config_dir(), "no directory").unwrap();
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("the CNI configuration")).await;
    assert!(text.contains("10-loden-default.conflist cannot be written"), "{text}");
    let mut reports = world.server.reports();
    let told = |ready: bool, why: &'static str| {
        move |reports: &Vec<v1::ReportStatusRequest>| {
            reports.last().is_some_and(|last| last.ready == ready && last.not_ready_reason.contains(why))
        }
    };
    reports.wait_for(told(false, "10-loden-default.conflist cannot be written")).await.unwrap();
    assert!(agent.overview().borrow().unready().is_some());
    fs::remove_file(world.cni_config_dir()).unwrap();
    agent.ready().await;
    assert!(conflist(&world).exists());
    reports.wait_for(told(true, "")).await.unwrap();
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
    assert_eq!((vtep.mac.clone(), vtep.mtu, vtep.vni), (device.vxlan().unwrap().mac.to_string(), 1450, 1));
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
async fn a_subnet_file_that_cannot_be_written_is_tried_again_soon() {
    let mut world = World::new();
    let draft = world.subnet_file().with_extension("env.new");
    fs::create_dir_all(&draft).unwrap();
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("subnet.env cannot be written")).await;
    assert!(text.contains("default"), "{text}");
    settle().await;
    fs::remove_dir(&draft).unwrap();
    let begin = tokio::time::Instant::now();
    agent.ready().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(world.subnet_file().exists());
}

#[tokio::test(start_paused = true)]
async fn a_file_for_pods_that_somebody_removed_or_changed_is_written_again() {
    let mut world = World::new();
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    for file in [world.subnet_file(), conflist(&world)] {
        let text = fs::read_to_string(&file).unwrap();
        for damage in [None, Some("FLANNEL_MTU=1\n")] {
            match damage {
                None => fs::remove_file(&file).unwrap(),
                Some(text) => fs::write(&file, text).unwrap(),
            }
            let begin = tokio::time::Instant::now();
            while fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                assert!(begin.elapsed() < Duration::from_secs(10), "it is not there again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Its pool has changed while the agent was down: the routes are known by their protocol alone.
#[tokio::test(start_paused = true)]
async fn a_route_into_the_pool_of_no_network_goes_with_the_first_whole_set() {
    let mut world = World::new();
    let key = RouteKey { prefix: "10.99.0.0/24".parse().unwrap(), metric: 5 };
    let route = Route {
        device: "eth0".parse().unwrap(),
        gateway: "192.0.2.200".parse().ok(),
        onlink: false,
        mtu: None,
    };
    world.kernel.change(|tables| tables.routes.extend([(key, route)]));
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], true, 1).await;
    agent.told(|_, text| text.contains("still collecting leases")).await;
    settle().await;
    assert!(world.kernel.tables().routes.contains_key(&key), "the server is adopting");
    world.snapshot(&watch, &[1], false, 2).await;
    world.routes_become(&[1]).await;
}

/// One of a network that this agent was part of stays: somebody may only have left out its name.
#[tokio::test(start_paused = true)]
async fn a_route_into_the_pool_of_a_network_that_is_not_served_any_more_stays() {
    let mut world = World::new();
    let blue = Network {
        id: "blue".parse().unwrap(),
        pools: vec![Pool::new("10.99.0.0/16".parse().unwrap(), None).unwrap()],
        ..network()
    };
    let state = StateDir::open(&world.state_dir()).unwrap();
    let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
    let (mut file, _) = state.network(&blue.id);
    file.rewrite(Content::of(Some(&(held, blue)), None, Rest::default()).unwrap()).await.unwrap();
    drop((file, state));
    let route = Route {
        device: "eth0".parse().unwrap(),
        gateway: "192.0.2.200".parse().ok(),
        onlink: false,
        mtu: None,
    };
    let [left, nobodys] = ["10.99.0.0/24", "10.98.0.0/24"]
        .map(|prefix| RouteKey { prefix: prefix.parse().unwrap(), metric: 5 });
    world.kernel.change(|tables| tables.routes.extend([(left, route), (nobodys, route)]));
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let routes = world.kernel.tables().routes;
    assert!(routes.contains_key(&left) && !routes.contains_key(&nobodys), "{routes:?}");
}
