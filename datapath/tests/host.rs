//! What a real kernel says of itself, in a network namespace per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use loden_datapath::tables::{Setting, SysctlKey};
use loden_datapath::{Hint, Host, HostRoute, Tables};
use loden_proto::model::Family;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use support::netns::{concerned, desired, foreign, in_namespace, name};
use support::{me, network, peer};

#[test]
fn the_host_is_described_as_it_is() {
    in_namespace(async |mut net| {
        let network = network();
        net.converge(&network, &desired(&network, &me(&network), &[peer(&network, 2)])).await;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(Ipv4Addr::new(192, 0, 2, 254)).build();
        net.stranger.route().add(route).execute().await.unwrap();

        let facts = net.kernel.facts().await.unwrap();
        let eth0 = facts.interface(name("eth0")).unwrap();
        assert_eq!((eth0.kind.as_deref(), eth0.mtu, eth0.up, eth0.ours), (Some("veth"), 1500, true, false));
        assert_eq!(facts.interface_with("192.0.2.1".parse().unwrap()), Some(eth0));
        let ours: Vec<_> = facts.interfaces.iter().filter(|interface| interface.ours).collect();
        assert!(
            !ours.is_empty() && ours.iter().all(|interface| interface.network == Some(network.id.clone()))
        );
        assert_eq!(eth0.network, None);
        assert!(eth0.addresses[0].permanent && eth0.addresses[0].global);
        assert_eq!(facts.default_routes.len(), 1);
        assert_eq!(facts.default_routes[0].device, name("eth0"));
        assert_eq!(facts.default_routes[0].gateway, Some("192.0.2.254".parse().unwrap()));
        let connected: Vec<_> = facts.connected.iter().map(|(_, net)| net.to_string()).collect();
        assert_eq!(connected, ["192.0.2.0/24", "2001:db8:ffff::/64"]);

        let near = net.kernel.route_to("192.0.2.7".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((near.device, near.gateway), (name("eth0"), None));
        assert_eq!(near.source, Some("192.0.2.1".parse().unwrap()));
        let far = net.kernel.route_to("203.0.113.1".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(far.gateway, Some("192.0.2.254".parse().unwrap()));
        assert_eq!(net.kernel.route_to("2001:db8:9999::1".parse().unwrap()).await.unwrap(), None);
    });
}

#[test]
fn routes_that_lead_nowhere_and_rules_are_told_of_and_announced() {
    in_namespace(async |mut net| {
        let network = network();
        net.converge(&network, &desired(&network, &me(&network), &[peer(&network, 2)])).await;
        let of = |prefix: &'static str| move |route: &&HostRoute| route.prefix.to_string() == prefix;
        let mut hints = net.kernel.hints().await.unwrap();
        for kind in ["blackhole", "unreachable", "prohibit", "throw"] {
            for prefix in ["192.0.2.64/26", "2001:db8:ffff:0:1::/80"] {
                foreign(&format!("ip route add {kind} {prefix}"));
                let facts = net.kernel.facts().await.unwrap();
                let route = facts.routes.iter().find(of(prefix)).unwrap();
                assert_eq!((route.device, route.gateway, route.drops), (None, None, true));
                foreign(&format!("ip route del {kind} {prefix}"));
                for gone in [false, true] {
                    let hint = hints.recv().await.unwrap();
                    assert_eq!(hint.host_route().unwrap().to_string(), prefix, "{hint:?}");
                    assert_eq!(matches!(hint, Hint::HostRouteGone(_)), gone);
                }
            }
        }
        let facts = net.kernel.facts().await.unwrap();
        assert!(!facts.routes.iter().any(|route| route.drops), "{:?}", facts.routes);
        assert!(facts.routes.iter().find(of("192.0.2.0/24")).is_some_and(|route| !route.drops));

        assert_eq!(facts.ruled, [], "the kernel's own are none");
        for family in ["-4", "-6"] {
            for rule in ["to 192.0.2.0/24 lookup 100", "to 2001:db8::/32 lookup 100", "fwmark 7 unreachable"]
            {
                let is_of_other = rule.contains(if family == "-4" { "2001" } else { "192" });
                if is_of_other {
                    continue;
                }
                foreign(&format!("ip {family} rule add {rule}"));
                let of = if family == "-4" { Family::V4 } else { Family::V6 };
                assert_eq!(net.kernel.facts().await.unwrap().ruled, [of], "{rule}");
                assert_eq!(hints.recv().await.unwrap(), Hint::Settings);
                foreign(&format!("ip {family} rule del {rule}"));
                assert_eq!(net.kernel.facts().await.unwrap().ruled, []);
                assert_eq!(hints.recv().await.unwrap(), Hint::Settings);
            }
        }
    });
}

/// In IPv4 the kernel does not say that the route goes with it.
#[test]
fn a_next_hop_that_routes_share_is_announced_when_it_goes() {
    in_namespace(async |mut net| {
        foreign("ip nexthop add id 7 via 192.0.2.254 dev eth0");
        foreign("ip route add default nhid 7");
        assert_eq!(net.kernel.facts().await.unwrap().default_routes.len(), 1);
        let mut hints = net.kernel.hints().await.unwrap();
        foreign("ip nexthop del id 7");
        let told =
            tokio::time::timeout(Duration::from_secs(10), hints.recv()).await.expect("nobody was told");
        assert_eq!(told, Some(Hint::Settings));
        assert_eq!(net.kernel.facts().await.unwrap().default_routes, []);
    });
}

#[test]
fn an_address_on_a_link_is_asked_for_and_what_comes_of_it_is_announced() {
    in_namespace(async |mut net| {
        let mut hints = net.kernel.hints().await.unwrap();
        let address: IpAddr = "192.0.2.77".parse().unwrap();
        net.kernel.ask(name("eth0"), &[address]).await.unwrap();
        let wait = async {
            loop {
                if let Hint::Answer { address: of, answers } = hints.recv().await.unwrap()
                    && of == address
                {
                    return answers;
                }
            }
        };
        let answers = tokio::time::timeout(Duration::from_secs(10), wait).await.expect("nobody was asked");
        assert!(!answers, "nobody has it");
    });
}

#[test]
fn drift_is_announced_and_our_own_writes_concern_nobody() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let wanted = desired(&network, &me, &[peer(&network, 2), peer(&network, 3)]);
        net.converge(&network, &wanted).await;
        let mut hints = net.kernel.hints().await.unwrap();

        // Our own writes: a peer comes, moves and leaves. A foreign address
        // afterwards marks where they end.
        let far0 = net.index("far0").await.unwrap();
        let mut third = peer(&network, 4);
        let steps = [None, Some(Ipv4Addr::new(192, 0, 2, 99))].map(|moved| {
            third.endpoint.v4 = moved.or(third.endpoint.v4);
            desired(&network, &me, &[peer(&network, 2), peer(&network, 3), third.clone()])
        });
        for (number, next) in steps.iter().chain([&wanted]).enumerate() {
            assert!(!net.converge(&network, next).await.is_empty());
            let mark = IpAddr::from([198, 51, 100, number as u8 + 1]);
            net.stranger.address().add(far0, mark, 32).execute().await.unwrap();
            let mut seen = 0;
            loop {
                let hint = hints.recv().await.unwrap();
                if matches!(hint, Hint::Address(key, _) if key.address.addr() == mark) {
                    break;
                }
                assert!(!hint.concerns(next), "{hint:?}");
                seen += 1;
            }
            assert!(seen > 0);
        }

        let index = net.index("loden1a").await.unwrap();
        let device = name("loden1a");
        let (route_key, _) = wanted.routes.iter().next().unwrap();
        let prefix: Ipv4Addr = match route_key.prefix.network() {
            IpAddr::V4(prefix) => prefix,
            IpAddr::V6(_) => unreachable!("IPv4 sorts first"),
        };
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix, 24)
            .output_interface(index)
            .priority(route_key.metric)
            .protocol(rtnetlink::packet_route::route::RouteProtocol::Unspec)
            .build();
        net.stranger.route().del(route).execute().await.unwrap();
        assert_eq!(concerned(&mut hints, &wanted).await, Hint::RouteGone(*route_key));
        net.converge(&network, &wanted).await;

        let (fdb_key, _) = wanted.fdb.iter().next().unwrap();
        let elsewhere = net.stranger.neighbours().add_bridge(index, &fdb_key.mac);
        let own = rtnetlink::packet_route::neighbour::NeighbourFlags::Own;
        let elsewhere = elsewhere.destination("192.0.2.250".parse().unwrap()).flags(own).replace();
        elsewhere.execute().await.unwrap();
        let hint = concerned(&mut hints, &wanted).await;
        assert!(matches!(hint, Hint::Fdb(key, _) if key == *fdb_key), "{hint:?}");
        net.converge(&network, &wanted).await;

        net.set(LinkUnspec::new_with_index(index).down()).await;
        concerned(&mut hints, &wanted).await;
        net.converge(&network, &wanted).await;

        net.stranger.link().del(index).execute().await.unwrap();
        loop {
            if concerned(&mut hints, &wanted).await == Hint::DeviceGone(device) {
                break;
            }
        }
        net.converge(&network, &wanted).await;
    });
}

#[test]
fn a_setting_of_the_host_is_announced_and_is_no_drift() {
    in_namespace(async |mut net| {
        let mut hints = net.kernel.hints().await.unwrap();
        let strict = SysctlKey { device: name("eth0"), setting: Setting::RpFilter };
        for (file, told, families) in [
            ("ipv4/ip_forward", Hint::Settings, 1),
            ("ipv6/conf/all/forwarding", Hint::Settings, 2),
            ("ipv4/conf/eth0/rp_filter", Hint::Setting(strict, 1), 2),
        ] {
            std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            let wait = async { while hints.recv().await.unwrap() != told {} };
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect(file);
            assert_eq!(net.kernel.facts().await.unwrap().forwards.len(), families);
        }
        assert!(Hint::Setting(strict, 1).concerns_underlay(&Tables::default()));
        assert!(Hint::Settings.concerns_underlay(&Tables::default()));
        assert!(!Hint::Settings.concerns(&Tables::default()));
    });
}

#[test]
fn a_new_address_of_the_host_is_announced() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &me(&network), &[]);
        net.converge(&network, &wanted).await;
        let mut hints = net.kernel.hints().await.unwrap();
        let eth0 = net.index("eth0").await.unwrap();
        net.stranger.address().add(eth0, "198.51.100.9".parse().unwrap(), 24).execute().await.unwrap();
        let wait = async {
            loop {
                let hint = hints.recv().await.unwrap();
                if hint.concerns_underlay(&wanted) && matches!(hint, Hint::Address(..)) {
                    return hint;
                }
            }
        };
        let hint = tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
        let Hint::Address(key, lifetime) = hint else { unreachable!("it was looked for") };
        assert_eq!((key.device, key.address.to_string()), (name("eth0"), "198.51.100.9/24".to_owned()));
        assert!(!Hint::Address(key, lifetime).concerns(&wanted));
    });
}

#[test]
fn neighbours_that_have_not_answered_are_told_by_link() {
    in_namespace(async |mut net| {
        let (eth0, far0) = (net.index("eth0").await.unwrap(), net.index("far0").await.unwrap());
        for (address, device, state) in [
            ("192.0.2.7", "eth0", "failed"),
            ("2001:db8:ffff::7", "eth0", "failed"),
            ("192.0.2.8", "eth0", "stale"),
            ("192.0.2.9", "far0", "failed"),
        ] {
            let mac = if state == "stale" { "lladdr 02:00:00:00:00:08" } else { "" };
            foreign(&format!("ip neigh replace {address} {mac} dev {device} nud {state}"));
        }
        let silent: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap(), "2001:db8:ffff::7".parse().unwrap()];
        assert_eq!(net.kernel.unanswered(eth0).await.unwrap(), silent);
        assert_eq!(net.kernel.unanswered(far0).await.unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    });
}
