//! Next hops in a real kernel, in a network namespace per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use loden_datapath::backend::{Link, Links, Me};
use loden_datapath::tables::RouteKey;
use loden_datapath::{Datapath, Hint, Hints, Host, Scope, Tables, plan};
use loden_proto::model::{Backend, Family, Network, Peer, VxlanBackend};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use support::netns::{Net, concerned, desired, foreign, in_namespace, lines, name, scope};
use support::{links, me, network, peer, routed};

fn host_gw() -> Network {
    Network { backend: Backend::HostGw, ..network() }
}

fn dual(network: &Network, number: u16) -> Peer {
    let mut peer = peer(network, number);
    peer.endpoint.v6 = Some(format!("2001:db8:ffff::{number}").parse().unwrap());
    routed(peer)
}

/// A host-gw network whose routes are in the kernel.
async fn converged(net: &mut Net) -> (Network, Me, Vec<Peer>) {
    let network = host_gw();
    let me = me(&network);
    let peers = vec![dual(&network, 2), dual(&network, 3)];
    net.converge(&network, &desired(&network, &me, &peers)).await;
    (network, me, peers)
}

/// A VXLAN network whose one peer is on the link, in the kernel.
async fn directly(net: &mut Net) -> (Network, Tables) {
    let backend = Backend::Vxlan(VxlanBackend { direct_routing: true, ..Default::default() });
    let network = Network { backend, ..network() };
    let wanted = desired(&network, &me(&network), &[dual(&network, 2)]);
    net.converge(&network, &wanted).await;
    (network, wanted)
}

/// Waits for a hint that fits.
async fn hint(hints: &mut Hints, fits: impl Fn(&Hint) -> bool) -> Hint {
    let wait = async {
        loop {
            let hint = hints.recv().await.expect("hints end with the datapath only");
            if fits(&hint) {
                return hint;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("nobody was told")
}

#[test]
fn routes_of_both_families_come_change_and_leave() {
    in_namespace(async |mut net| {
        let (network, me, mut peers) = converged(&mut net).await;
        // IPv4 over an IPv6 next hop, by one route replaced.
        peers[0].endpoint.v4 = None;
        let moved = net.converge(&network, &desired(&network, &me, &peers)).await;
        assert_eq!(lines(&moved), ["+ route 10.244.2.0/24 metric 3 via 2001:db8:ffff::2 dev eth0"]);
        peers.clear();
        let left = net.converge(&network, &desired(&network, &me, &peers)).await;
        assert_eq!(left.len(), 4);
        assert!(net.kernel.observe(&scope(&network)).await.unwrap().is_empty());
    });
}

#[test]
fn a_peer_moves_between_link_and_tunnel_by_replacing_routes() {
    in_namespace(async |mut net| {
        let backend = Backend::Vxlan(VxlanBackend { direct_routing: true, ..Default::default() });
        let network = Network { backend, ..network() };
        let near = me(&network);
        let mut far = near.clone();
        far.underlay.links = links(&[]);
        let peers = [dual(&network, 2)];
        net.converge(&network, &desired(&network, &near, &peers)).await;
        for _ in 0..3 {
            for me in [&far, &near] {
                let moved = net.converge(&network, &desired(&network, me, &peers)).await;
                assert_eq!(moved.len(), 2, "{:?}", lines(&moved));
                assert!(lines(&moved).iter().all(|step| step.starts_with("+ route")), "{:?}", lines(&moved));
            }
        }
    });
}

#[test]
fn the_mtu_of_a_route_is_set_seen_and_put_back() {
    in_namespace(async |mut net| {
        let (network, wanted) = directly(&mut net).await;
        let mut hints = net.kernel.hints().await.unwrap();
        for (family, prefix, mtu, locked) in [
            ("-4", "10.244.2.0/24", "mtu 1450", "mtu lock 1450"),
            ("-6", "2001:db8:0:2::/64", "mtu lock 1450", "mtu 1450"),
        ] {
            let route = || foreign(&format!("ip {family} -o route show {prefix}"));
            let before = route();
            let via = before.split_once("proto").unwrap().0;
            assert!(before.contains(mtu), "{before}");
            for metrics in ["", "mtu 1400", locked, &format!("{mtu} advmss 1000")] {
                foreign(&format!("ip {family} route replace {via} proto 76 metric 3 {metrics}"));
                concerned(&mut hints, &wanted).await;
                assert_eq!(net.converge(&network, &wanted).await.len(), 1, "after {metrics:?}");
                assert_eq!(route(), before, "after {metrics:?}");
            }
        }
    });
}

#[test]
fn the_kernel_leaves_the_mtu_of_a_route_alone_when_its_link_takes_less_and_more_again() {
    in_namespace(async |mut net| {
        let (network, wanted) = directly(&mut net).await;
        let eth0 = net.index("eth0").await.unwrap();
        for mtu in [1300, 1500, 9000] {
            net.set(LinkUnspec::new_with_index(eth0).mtu(mtu)).await;
        }
        // As a router's advertisement has it.
        for mtu in ["1400", "9000"] {
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/mtu", mtu).unwrap();
        }
        let undone = net.converge(&network, &wanted).await;
        assert!(undone.is_empty(), "{:?}", lines(&undone));
    });
}

#[test]
fn strangers_routes_stay_and_ours_are_known_by_pool_and_protocol() {
    in_namespace(async |mut net| {
        let (network, me, _) = converged(&mut net).await;
        let eth0 = net.index("eth0").await.unwrap();
        let via = Ipv4Addr::new(192, 0, 2, 200);
        let route = |prefix: [u8; 4], protocol, metric| {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(prefix.into(), 24)
                .output_interface(eth0)
                .gateway(via)
                .priority(metric)
                .protocol(protocol);
            route.build()
        };
        // In the pool, but a stranger's; ours, but of another network's pool.
        for (prefix, protocol) in
            [([10, 244, 9, 0], RouteProtocol::Static), ([10, 99, 0, 0], RouteProtocol::Other(76))]
        {
            net.stranger.route().add(route(prefix, protocol, 5)).execute().await.unwrap();
        }
        // Left by a former life.
        net.stranger
            .route()
            .add(route([10, 244, 8, 0], RouteProtocol::Other(76), 9))
            .execute()
            .await
            .unwrap();
        let swept = net.converge(&network, &desired(&network, &me, &[])).await;
        assert_eq!(swept.len(), 5);
        let facts = net.kernel.facts().await.unwrap();
        let strangers: Vec<_> =
            facts.routes.iter().filter(|route| route.gateway == Some(IpAddr::V4(via))).collect();
        assert_eq!(strangers.len(), 1, "{:?}", facts.routes);
        assert_eq!(strangers[0].prefix.to_string(), "10.244.9.0/24");
    });
}

#[test]
fn what_leads_into_pools_of_no_network_goes_when_all_networks_are_known() {
    in_namespace(async |mut net| {
        let (network, me, peers) = converged(&mut net).await;
        let wanted = desired(&network, &me, &peers);
        let left = [
            "10.99.0.0/24 via 192.0.2.200 dev eth0 metric 5 proto 76",
            "blackhole 10.99.1.0/24 metric 1000000 proto 76",
            "2001:db8:99::/64 via 2001:db8:ffff::9 dev eth0 metric 5 proto 76",
        ];
        // Another network's, and a stranger's.
        let others = [
            "10.98.0.0/24 via 192.0.2.200 dev eth0 metric 5 proto 76",
            "blackhole 10.97.0.0/24 metric 1000000",
        ];
        others.iter().for_each(|route| drop(foreign(&format!("ip route add {route}"))));
        let before = [foreign("ip -4 -o route show"), foreign("ip -6 -o route show")];
        left.iter().for_each(|route| drop(foreign(&format!("ip route add {route}"))));
        let own = scope(&network);
        assert_eq!(net.kernel.observe(&own).await.unwrap(), wanted, "some network's, for all that is known");
        let pools = own.pools.iter().copied().chain(["10.98.0.0/16".parse().unwrap()]);
        let scope = Scope { all: Some(pools.collect()), ..own };
        let todo = plan(&net.kernel.observe(&scope).await.unwrap(), &wanted);
        assert!(net.run(todo.into_steps()).await.is_complete());
        assert_eq!([foreign("ip -4 -o route show"), foreign("ip -6 -o route show")], before);
        assert_eq!(net.kernel.observe(&scope).await.unwrap(), wanted);
    });
}

#[test]
fn a_lost_carrier_keeps_the_routes_and_a_link_that_was_down_gets_them_back() {
    in_namespace(async |mut net| {
        let (network, me, peers) = converged(&mut net).await;
        let wanted = desired(&network, &me, &peers);
        let mut hints = net.kernel.hints().await.unwrap();
        let down_and_up = |name: &'static str| {
            [LinkUnspec::new_with_name(name).down(), LinkUnspec::new_with_name(name).up()]
        };
        for change in down_and_up("far0") {
            net.set(change).await;
            hint(&mut hints, |hint| hint.concerns_links(&me.underlay.links)).await;
            let actual = net.kernel.observe(&scope(&network)).await.unwrap();
            assert_eq!(actual, wanted, "without a write of ours");
        }
        let [down, up] = down_and_up("eth0");
        net.set(down).await;
        hint(&mut hints, |hint| hint.concerns_links(&me.underlay.links)).await;
        let actual = net.kernel.observe(&scope(&network)).await.unwrap();
        assert!(actual.routes.keys().all(|key| key.prefix.addr().is_ipv6()), "{:?}", actual.routes);
        net.set(up).await;
        hint(&mut hints, |hint| hint.concerns_links(&me.underlay.links)).await;
        net.stranger
            .address()
            .add(net.index("eth0").await.unwrap(), "2001:db8:ffff::1".parse().unwrap(), 64)
            .execute()
            .await
            .unwrap();
        net.converge(&network, &wanted).await;
    });
}

#[test]
fn the_kernel_tells_who_answers_and_which_routes_are_the_hosts() {
    in_namespace(async |mut net| {
        let (_, me, _) = converged(&mut net).await;
        let mut hints = net.kernel.hints().await.unwrap();
        let eth0 = net.index("eth0").await.unwrap();
        let address: IpAddr = "192.0.2.2".parse().unwrap();
        let (found, failed) = ((NeighbourState::Reachable, true), (NeighbourState::Failed, false));
        for (state, answers) in [found, failed, found] {
            let neighbour = net.stranger.neighbours().add(eth0, address).state(state);
            neighbour.link_layer_address(&[2, 0, 0, 0, 0, 2]).replace().execute().await.unwrap();
            hint(&mut hints, |hint| *hint == Hint::Answer { address, answers }).await;
        }
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(192, 0, 2, 2), 32)
            .gateway(Ipv4Addr::new(192, 0, 2, 254))
            .build();
        net.stranger.route().add(route).execute().await.unwrap();
        let told = hint(&mut hints, |hint| hint.concerns_links(&me.underlay.links)).await;
        let key = RouteKey { prefix: "192.0.2.2/32".parse().unwrap(), metric: 0 };
        assert_eq!(told, Hint::Route(key, None));

        let facts = net.kernel.facts().await.unwrap();
        let links = Links::of(&facts, &me.subnets);
        assert_eq!(links.to(address), None, "behind a gateway now");
        let eth0 = Some(Link { device: name("eth0"), mtu: 1500 });
        assert_eq!(links.to("192.0.2.3".parse().unwrap()), eth0);
        assert_eq!(links.to("2001:db8:ffff::3".parse().unwrap()), eth0);
        assert_eq!(links.to("203.0.113.1".parse().unwrap()), None);
    });
}

#[test]
fn forwarding_and_strict_filters_are_facts() {
    in_namespace(async |mut net| {
        let set = |path: &str, value: &str| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
        for (path, value) in [("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "1")] {
            set(path, value);
        }
        for (all, own, strict) in [("0", "0", false), ("0", "1", true), ("1", "0", true), ("1", "2", false)] {
            set("ipv4/conf/all/rp_filter", all);
            set("ipv4/conf/eth0/rp_filter", own);
            let facts = net.kernel.facts().await.unwrap();
            assert_eq!(facts.interface(name("eth0")).unwrap().strict, strict, "{all} {own}");
            assert_eq!(facts.forwards, [Family::V6]);
            assert!(facts.interface(name("eth0")).unwrap().broadcast);
        }
        set("ipv4/ip_forward", "1");
        for forwards in [true, false] {
            set("ipv4/conf/eth0/forwarding", if forwards { "1" } else { "0" });
            let facts = net.kernel.facts().await.unwrap();
            assert_eq!(facts.interface(name("eth0")).unwrap().forwards, forwards);
            assert_eq!(facts.forwards, [Family::V4, Family::V6]);
        }
    });
}
