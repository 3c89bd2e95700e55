//! The kernel and the host change behind the agent's back, or refuse.

use std::net::IpAddr;
use std::time::Duration;

use loden_datapath::tables::{AddressKey, Lifetime, RouteKey, Tables};
use loden_datapath::{Error, Hint, HostRoute, Step};
use loden_proto::model::{
    Backend, Family, Network, Peer, Pool, Receiver, RoutedReceiver, Subnets, VxlanBackend,
};
use loden_proto::v1;
use tokio::time::{Instant, sleep};

use super::{no_space, settle};
use crate::testing::{World, facts, network, peer};

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
async fn neighbours_are_told_three_times_of_another_mac_address() {
    let mut world = World::new();
    let change = |world: &World, mac: &str| {
        let mac = mac.parse().ok();
        world.kernel.change_facts(|host| host.interfaces[0].mac = mac);
        world.kernel.hint(&Hint::Device { name: "eth0".parse().unwrap(), device: None });
    };
    change(&world, "02:00:00:00:00:01");
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.kernel.announced(), []);
    change(&world, "02:00:00:00:00:02");
    sleep(Duration::from_millis(500)).await;
    let told = ("eth0".parse().unwrap(), vec!["192.0.2.9".parse().unwrap()]);
    assert_eq!(world.kernel.announced(), std::slice::from_ref(&told), "at once");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.kernel.announced(), [told.clone(), told.clone(), told]);
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

/// IPv6 is switched off at the start, comes, goes while the agent runs, and comes without a word of the kernel.
#[tokio::test(start_paused = true)]
async fn what_is_ipv4_works_on_a_host_without_ipv6() {
    let mut both = network();
    both.pools.push(Pool::new("2001:db8::/48".parse().unwrap(), None).unwrap());
    let with_v6 = |number: u8| {
        let v6 = format!("2001:db8:0:{number}::/64").parse().unwrap();
        Peer { subnets: Subnets::new(peer(number).subnets.iter().chain([v6])).unwrap(), ..peer(number) }
    };
    let mut world = World::with(both.clone());
    world.server.grant_lease(&both, with_v6(9).subnets, 1);
    world.kernel.change_facts(|host| host.v6_off.all = true);
    world.kernel.fail(|step| step.to_string().contains("2001:db8:").then(no_space));
    let agent = world.start();
    let watch = world.watch().await;
    watch.snapshot(&both, &[with_v6(1)], false, 1).await;
    let text = agent.ready().await;
    let why = "nothing of the network's IPv6 works on this host; set it to 0";
    let warned = format!("default: 1 peers from server, warning: net.ipv6.conf.all.disable_ipv6 is 1: {why}");
    assert_eq!(text, warned);
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
    assert!(!world.subnet_env().contains("IPV6"), "{}", world.subnet_env());

    world.kernel.heal();
    world.kernel.change_facts(|host| host.v6_off.all = false);
    let loopback = AddressKey::new("lo".parse().unwrap(), "::1/128".parse().unwrap());
    world.kernel.hint(&Hint::Address(loopback, Lifetime::Infinite));
    agent.told(|ready, text| ready && text == "default: 1 peers from server").await;
    assert_eq!(world.routes(), ["10.244.1.0/24", "2001:db8:0:1::/64"]);
    settle().await;
    assert!(world.subnet_env().contains("FLANNEL_IPV6_SUBNET=2001:db8:0:9::1/64"), "{}", world.subnet_env());

    let tunnel = *world.kernel.tables().devices.keys().next().unwrap();
    let own = AddressKey::new(tunnel, "2001:db8:0:9::/128".parse().unwrap());
    world.kernel.change_facts(|host| host.v6_off.default = true);
    world.kernel.change(|tables| {
        tables.addresses.remove(&own).unwrap();
        tables.routes.retain(|key, _| key.prefix.addr().is_ipv4());
    });
    world.kernel.fail(|step| step.to_string().contains("2001:db8:").then(no_space));
    world.kernel.hint(&Hint::AddressGone(own));
    let mut readiness = agent.readiness();
    let at_once =
        readiness.wait_for(|now| now.detail.contains("conf.default.disable_ipv6") || !now.ready).await;
    assert!(at_once.unwrap().ready, "nothing was tried in vain");
    settle().await;
    assert!(!world.subnet_env().contains("IPV6"), "{}", world.subnet_env());
    world.kernel.heal();
    world.kernel.change_facts(|host| host.v6_off.default = false);
    let begin = Instant::now();
    agent.told(|ready, text| ready && text == "default: 1 peers from server").await;
    assert!(begin.elapsed() < Duration::from_secs(3), "after {:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_an_endpoint_update() {
    let mut world = World::new();
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    world.kernel.change_facts(|host| *host = facts("192.0.2.99"));
    let address = "192.0.2.99/24".parse().unwrap();
    world.kernel.hint(&Hint::Address(AddressKey::new("eth0".parse().unwrap(), address), Lifetime::Infinite));
    let mut endpoints = world.server.endpoints();
    let moved =
        |endpoints: &Vec<v1::Endpoint>| endpoints.last().is_some_and(|last| last.address_v4 == "192.0.2.99");
    endpoints.wait_for(moved).await.unwrap();
    let device = world.kernel.tables().devices.into_values().next().unwrap();
    assert_eq!(device.vxlan().unwrap().local.to_string(), "192.0.2.99");
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
}

/// Routing daemons change routes all day. Only those that change who is on a link cost a look at the kernel.
#[tokio::test(start_paused = true)]
async fn a_route_of_others_costs_no_look_at_the_kernel_unless_it_changes_a_link() {
    let mut world = World::with(Network { backend: Backend::HostGw, ..network() });
    let route = |prefix: &str, gateway: Option<IpAddr>| HostRoute {
        prefix: prefix.parse().unwrap(),
        metric: 0,
        device: Some("eth0".parse().unwrap()),
        gateway,
        drops: false,
    };
    world.kernel.change_facts(|host| host.routes.push(route("192.0.2.0/24", None)));
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let observations = world.kernel.observations();
    world.kernel.hint(&Hint::HostRouteGone("203.0.113.0/24".parse().unwrap()));
    settle().await;
    assert_eq!(world.kernel.observations(), observations);

    let gateway = Some([192, 0, 2, 254].into());
    world.kernel.change_facts(|host| host.routes.push(route("192.0.2.1/32", gateway)));
    let (prefix, metric) = ("192.0.2.1/32".parse().unwrap(), 0);
    world.kernel.hint(&Hint::Route(RouteKey { prefix, metric }, None));
    settle().await;
    assert!(world.kernel.observations() > observations);
}

/// A peer that was moved from its link into the tunnel stays there: trying the link anew would lose packets.
#[tokio::test(start_paused = true)]
async fn who_has_not_answered_is_known_after_a_restart() {
    let backend = Backend::Vxlan(VxlanBackend { direct_routing: true, ..VxlanBackend::default() });
    let mut world = World::with(Network { backend, ..network() });
    let on_link = HostRoute {
        prefix: "192.0.2.0/24".parse().unwrap(),
        metric: 0,
        device: Some("eth0".parse().unwrap()),
        gateway: None,
        drops: false,
    };
    world.kernel.change_facts(|host| host.routes.push(on_link));
    let (agent, watch) = world.ready_with(&[], 1).await;
    let mut peer = peer(1);
    peer.endpoint.receivers.push(Receiver::Routed(RoutedReceiver { family: Family::V4, mtu: 0 }));
    watch.snapshot(&world.network, &[peer], false, 2).await;
    world.routes_become(&[1]).await;
    let device = || world.kernel.tables().routes.values().next().unwrap().device.to_string();
    assert_eq!(device(), "eth0");
    let address = [192, 0, 2, 1].into();
    world.kernel.hint(&Hint::Answer { address, answers: false });
    settle().await;
    assert_eq!(device(), "loden1a");
    agent.stop().await;

    // The kernel has forgotten: nobody sends there.
    let executed = world.kernel.executed().len();
    let agent = world.start();
    agent.ready().await;
    settle().await;
    assert_eq!((device(), world.kernel.executed().len()), ("loden1a".to_owned(), executed));

    // And so it has to be asked.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.kernel.asked(), [("eth0".parse().unwrap(), vec![address])]);
    world.kernel.hint(&Hint::Answer { address, answers: true });
    sleep(Duration::from_secs(32)).await;
    assert_eq!(device(), "eth0");
    agent.stop().await;
    // Another one hears of it from the kernel.
    world.kernel.silence(&[address]);
    let _agent = world.start();
    settle().await;
    assert_eq!(device(), "loden1a");
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

/// Tries have become rare meanwhile. An interface that is back does not wait for the next one.
#[tokio::test(start_paused = true)]
async fn an_interface_that_is_back_after_long_is_used_at_once() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    world.kernel.change_facts(|host| host.interfaces[0].addresses.clear());
    world.kernel.fail(|_| Some(no_space()));
    world.kernel.change(|tables| *tables = Tables::default());
    world.kernel.hint(&Hint::Overrun);
    agent.not_ready().await;
    sleep(Duration::from_secs(600)).await;

    world.kernel.heal();
    world.kernel.change_facts(|host| *host = facts("192.0.2.9"));
    let address = "192.0.2.9/24".parse().unwrap();
    let begin = Instant::now();
    world.kernel.hint(&Hint::Address(AddressKey::new("eth0".parse().unwrap(), address), Lifetime::Infinite));
    agent.ready().await;
    assert!(begin.elapsed() < Duration::from_secs(1), "after {:?}", begin.elapsed());
    assert_eq!(world.routes(), ["10.244.1.0/24"]);
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
async fn a_lease_out_of_the_underlays_own_prefix_is_not_used() {
    let mut world = World::new();
    world.kernel.change_facts(|host| {
        host.interfaces[0].addresses[0].net = "10.244.0.9/16".parse().unwrap();
        host.connected = vec![(host.interfaces[0].name, "10.244.0.0/16".parse().unwrap())];
    });
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("OVERLAPS_UNDERLAY")).await;
    assert!(text.contains("10.244.9.0/24 overlaps 10.244.0.0/16"), "{text}");
    settle().await;
    assert_eq!(world.kernel.executed(), []);
    assert!(!world.subnet_file().exists());
}

#[tokio::test(start_paused = true)]
async fn no_route_of_ours_covers_the_control_plane() {
    let mut world = World::new();
    world.dialled = ["10.244.1.7:7443".parse().unwrap()].into();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    world.routes_become(&[2]).await;
    let overview = agent.overview();
    let failures = overview.borrow().applied.failures.clone();
    assert!(failures["node-1"].message.contains("10.244.1.7/32"), "{failures:?}");

    let mut world = World::new();
    world.dialled = ["10.244.9.7:7443".parse().unwrap()].into();
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("OVERLAPS_UNDERLAY")).await;
    assert!(
        text.contains("10.244.9.0/24 contains 10.244.9.7, where this host reaches the control plane"),
        "{text}"
    );
}

/// Packets to it are lost, and nothing of ours is wrong.
#[tokio::test(start_paused = true)]
async fn a_peer_that_no_route_leads_to_is_named_until_one_does() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1, 2], 1).await;
    settle().await;
    let (executed, observations) = (world.kernel.executed().len(), world.kernel.observations());
    world.kernel.hint(&Hint::HostRouteGone("203.0.113.0/24".parse().unwrap()));
    settle().await;
    assert_eq!(world.kernel.observations(), observations, "nobody is sent to there");

    let everywhere = "0.0.0.0/0".parse().unwrap();
    let mut route = None;
    world.kernel.change_facts(|host| route = host.routes.pop());
    world.kernel.hint(&Hint::HostRouteGone(everywhere));
    agent.told(|_, detail| detail.contains("0 peers from server, 2 left out")).await;
    let failures = agent.overview().borrow().applied.failures.clone();
    let message = "this host has no route to its underlay address 192.0.2.1";
    assert_eq!(failures["node-1"].message, message);

    world.kernel.change_facts(|host| host.routes.extend(route));
    world.kernel.hint(&Hint::Route(RouteKey { prefix: everywhere, metric: 0 }, None));
    agent.told(|_, detail| detail.contains("2 peers from server") && !detail.contains("left out")).await;
    assert_eq!(world.kernel.executed().len(), executed, "the entries stay");
}

/// The interface is chosen by routes: without a look it would be kept until the next audit.
#[tokio::test(start_paused = true)]
async fn a_default_route_over_another_interface_is_followed() {
    let mut world = World::new();
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let eth1 = "eth1".parse().unwrap();
    world.kernel.change_facts(|host| {
        let mut other = facts("198.51.100.9");
        other.interfaces[0].name = eth1;
        other.interfaces[0].index = 3;
        host.interfaces.append(&mut other.interfaces);
        host.default_routes[0].device = eth1;
    });
    let looked = Instant::now();
    world.kernel.hint(&Hint::Route(RouteKey { prefix: "0.0.0.0/0".parse().unwrap(), metric: 0 }, None));
    let moved = |endpoints: &Vec<v1::Endpoint>| {
        endpoints.last().is_some_and(|endpoint| endpoint.address_v4 == "198.51.100.9")
    };
    world.server.endpoints().wait_for(moved).await.unwrap();
    assert!(looked.elapsed() < Duration::from_secs(2), "{:?}", looked.elapsed());
}

/// What it takes to have an interface at all may come with any route.
#[tokio::test(start_paused = true)]
async fn a_default_route_that_is_back_is_seen_at_once() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let mut route = None;
    world.kernel.change_facts(|host| route = host.default_routes.pop());
    world.kernel.hint(&Hint::HostRouteGone("0.0.0.0/0".parse().unwrap()));
    agent.told(|ready, text| !ready && text.contains("there is no default route")).await;
    sleep(Duration::from_secs(1)).await;
    world.kernel.change_facts(|host| host.default_routes.extend(route));
    world.kernel.hint(&Hint::Route(RouteKey { prefix: "0.0.0.0/0".parse().unwrap(), metric: 0 }, None));
    let back = Instant::now();
    agent.ready().await;
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
}
