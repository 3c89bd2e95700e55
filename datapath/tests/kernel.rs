//! The datapath against a real kernel, in a network namespace per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use loden_datapath::backend::{self, Me};
use loden_datapath::tables::{FdbKey, NeighbourKey, RouteKey, metric};
use loden_datapath::{Datapath, DeviceName, Error, Hint, Hints, Host, Plan, Report, Step, Tables, plan};
use loden_proto::model::{Backend, Family, Network, Peer, Port, Receiver, VxlanBackend};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoVxlan, LinkAttribute, LinkInfo,
};
use rtnetlink::{LinkUnspec, LinkVxlan, RouteMessageBuilder};
use support::netns::{Net, in_namespace};
use support::{dual_underlay, me, mtu, network, network_v4, peer, receiver, vni};

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps().iter().map(ToString::to_string).collect()
}

fn desired(network: &Network, me: &Me, peers: &[Peer]) -> Tables {
    let (tables, refused) = backend::tables(network, me, peers);
    assert!(refused.is_empty(), "{refused:?}");
    tables
}

impl Net {
    /// One pass, as an agent does it. The second look must find nothing to do.
    async fn converge(&mut self, network: &Network, desired: &Tables) -> Plan {
        let scope = backend::scope(network);
        let todo = plan(&self.kernel.observe(&scope).await.unwrap(), desired);
        let report = self.kernel.execute(&todo).await;
        assert!(report.is_complete(), "{:#?}", report.failed);
        assert_eq!(report.executed, todo.len());
        let actual = self.kernel.observe(&scope).await.unwrap();
        assert_eq!(lines(&plan(&actual, desired)), Vec::<String>::new());
        assert_eq!(&actual, desired);
        todo
    }

    async fn run(&mut self, steps: impl IntoIterator<Item = Step>) -> Report {
        self.kernel.execute(&steps.into_iter().collect()).await
    }
}

#[test]
fn a_second_pass_plans_nothing_and_writes_nothing() {
    in_namespace(async |mut net| {
        let network = network();
        let me = dual_underlay(me(&network));
        let wanted = desired(&network, &me, &[peer(&network, 2), peer(&network, 3)]);
        net.converge(&network, &wanted).await;
        let writes = net.kernel.writes().count();
        assert!(writes > 0);
        assert!(net.converge(&network, &wanted).await.is_empty());
        assert_eq!(net.kernel.writes().count(), writes);
    });
}

#[test]
fn the_device_is_made_as_flannel_makes_it() {
    in_namespace(async |mut net| {
        let network = network_v4();
        net.converge(&network, &desired(&network, &me(&network), &[])).await;
        let vxlan = net.attribute("loden1a", |attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else { return None };
            infos.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.clone()),
                _ => None,
            })
        });
        let vxlan = vxlan.await.unwrap();
        let eth0 = net.index("eth0").await.unwrap();
        for wanted in [
            InfoVxlan::Id(1),
            InfoVxlan::Port(8472),
            InfoVxlan::Local(Ipv4Addr::new(192, 0, 2, 1)),
            InfoVxlan::Link(eth0),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(true),
            InfoVxlan::UDPZeroCsumTX(false),
            InfoVxlan::UDPZeroCsumRX(false),
            InfoVxlan::Ttl(0),
            InfoVxlan::Tos(0),
            InfoVxlan::L2Miss(false),
            InfoVxlan::Proxy(false),
        ] {
            assert!(vxlan.contains(&wanted), "{wanted:?} in {vxlan:?}");
        }
        let queue = net.attribute("loden1a", |attribute| match attribute {
            LinkAttribute::TxQueueLen(length) => Some(*length),
            _ => None,
        });
        assert_eq!(queue.await, Some(0));
        // addrgenmode none was set before it came up: no link-local address.
        let facts = net.kernel.facts().await.unwrap();
        let device = facts.interface(name("loden1a")).unwrap();
        let addresses: Vec<_> = device.addresses.iter().map(|address| address.net.to_string()).collect();
        assert_eq!(addresses, ["10.244.1.0/32"]);
        assert!(device.ours);
    });
}

#[test]
fn peers_come_move_and_leave() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let mut peers = vec![peer(&network, 2), peer(&network, 3)];
        net.converge(&network, &desired(&network, &me, &peers)).await;

        peers[0].endpoint.v4 = Some(Ipv4Addr::new(192, 0, 2, 9));
        let moved = net.converge(&network, &desired(&network, &me, &peers)).await;
        let Receiver::Vxlan(vtep) = peers[0].endpoint.receivers[0];
        assert_eq!(lines(&moved), [format!("+ fdb {} dst 192.0.2.9 dev loden1a", vtep.mac)]);

        let gone = peers.remove(1);
        let left = net.converge(&network, &desired(&network, &me, &peers)).await;
        assert_eq!(left.len(), 5);
        assert!(left.steps().iter().all(|step| step.to_string().starts_with('-')), "{:?}", lines(&left));

        peers.push(gone);
        net.converge(&network, &desired(&network, &me, &peers)).await;
        net.converge(&network, &desired(&network, &me, &[])).await;
    });
}

#[test]
fn a_new_mac_leaves_no_old_entry() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let mut changed = peer(&network, 2);
        net.converge(&network, &desired(&network, &me, &[changed.clone()])).await;
        for last in 1..=3 {
            let mac = [2, 0, 0, 0, 0, last].try_into().unwrap();
            changed.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V4, mac))];
            net.converge(&network, &desired(&network, &me, &[changed.clone()])).await;
        }
        let actual = net.kernel.observe(&backend::scope(&network)).await.unwrap();
        assert_eq!(actual.fdb.len(), 1);
        assert_eq!(actual.neighbours.len(), 2);
    });
}

#[test]
fn what_a_former_process_left_is_swept_but_not_before_it_is_known() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let all: Vec<Peer> = (2..52).map(|number| peer(&network, number)).collect();
        net.converge(&network, &desired(&network, &me, &all)).await;

        let few = desired(&network, &me, &all[..3]);
        let scope = backend::scope(&network);
        let actual = net.kernel.observe(&scope).await.unwrap();
        assert!(plan(&actual, &few).without_removals().is_empty());
        net.converge(&network, &few).await;
    });
}

#[test]
fn foreign_objects_are_never_touched() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let me = me(&network);
        let wanted = desired(&network, &me, &[peer(&network, 2)]);
        net.converge(&network, &wanted).await;
        let ours = net.index("loden1a").await.unwrap();
        let eth0 = net.index("eth0").await.unwrap();
        let stranger = &net.stranger;
        // A route through our device, a neighbour and an address on it, a route
        // with our protocol number through another device, another tunnel, and
        // one that is named like ours.
        let foreign = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(198, 51, 100, 0), 24)
            .output_interface(ours)
            .build();
        stranger.route().add(foreign).execute().await.unwrap();
        let elsewhere = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(203, 0, 113, 0), 24)
            .output_interface(eth0)
            .protocol(rtnetlink::packet_route::route::RouteProtocol::Other(76))
            .build();
        stranger.route().add(elsewhere).execute().await.unwrap();
        let neighbour: IpAddr = "198.51.100.7".parse().unwrap();
        stranger
            .neighbours()
            .add(ours, neighbour)
            .link_layer_address(&[2, 9, 9, 9, 9, 9])
            .execute()
            .await
            .unwrap();
        stranger.address().add(ours, "198.51.100.1".parse().unwrap(), 24).execute().await.unwrap();
        for (other, id) in [("flannel.7", 7), ("loden9a", 9)] {
            stranger.link().add(LinkVxlan::new(other, id).port(8472).build()).execute().await.unwrap();
        }

        assert!(net.converge(&network, &wanted).await.is_empty());
        net.converge(&network, &desired(&network, &me, &[])).await;
        let empty = net.kernel.observe(&backend::scope(&network)).await.unwrap();
        assert!(plan(&empty, &desired(&network, &me, &[])).is_empty());
        for other in ["flannel.7", "loden9a"] {
            assert!(net.index(other).await.is_some(), "{other}");
        }
        let routes = net.routes().await;
        for prefix in ["198.51.100.0/24", "203.0.113.0/24"] {
            assert!(routes.contains(&prefix.to_owned()), "{prefix} in {routes:?}");
        }
        let facts = net.kernel.facts().await.unwrap();
        let addresses = &facts.interface(name("loden1a")).unwrap().addresses;
        assert!(addresses.iter().any(|address| address.net.to_string() == "198.51.100.1/24"));
        assert!(net.has_neighbour(neighbour).await);
    });
}

impl Net {
    async fn routes(&self) -> Vec<String> {
        use futures_util::TryStreamExt;
        use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
        let routes = self.stranger.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let routes: Vec<_> = routes.try_collect().await.unwrap();
        let prefix = |route: &rtnetlink::packet_route::route::RouteMessage| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    Some(format!("{address}/{}", route.header.destination_prefix_length))
                }
                _ => None,
            })
        };
        routes.iter().filter_map(prefix).collect()
    }

    async fn has_neighbour(&self, address: IpAddr) -> bool {
        use futures_util::TryStreamExt;
        use rtnetlink::packet_route::neighbour::NeighbourAttribute;
        let all: Vec<_> = self.stranger.neighbours().get().execute().try_collect().await.unwrap();
        let wanted = NeighbourAttribute::Destination(address.into());
        all.iter().any(|neighbour| neighbour.attributes.contains(&wanted))
    }
}

#[test]
fn a_new_vni_or_port_makes_the_device_again_with_everything_on_it() {
    in_namespace(async |mut net| {
        let mut network = network();
        let me = dual_underlay(me(&network));
        let peers = |network: &Network| vec![peer(network, 2), peer(network, 3)];
        net.converge(&network, &desired(&network, &me, &peers(&network))).await;

        network.vni = vni(2);
        net.converge(&network, &desired(&network, &me, &peers(&network))).await;
        assert_eq!(net.index("loden1a").await, None);
        assert!(net.index("loden2a").await.is_some());

        let port = Port::try_from(4789).unwrap();
        network.backend = Backend::Vxlan(VxlanBackend { port, ..VxlanBackend::default() });
        let again = net.converge(&network, &desired(&network, &me, &peers(&network))).await;
        assert!(lines(&again).contains(&"- device loden2a".to_owned()), "{:?}", lines(&again));

        network.backend = Backend::Vxlan(VxlanBackend { port, gbp: true, learning: false });
        let with_gbp: Vec<Peer> = peers(&network)
            .into_iter()
            .map(|mut peer| {
                let Receiver::Vxlan(vtep) = &mut peer.endpoint.receivers[0];
                vtep.gbp = true;
                peer
            })
            .collect();
        net.converge(&network, &desired(&network, &me, &with_gbp)).await;
    });
}

#[test]
fn what_the_kernel_can_change_is_changed_live() {
    in_namespace(async |mut net| {
        let mut network = network();
        let mut me = me(&network);
        let peers = [peer(&network, 2)];
        net.converge(&network, &desired(&network, &me, &peers)).await;
        let index = net.index("loden1a").await;

        me.mac = [2, 0, 0, 0, 1, 1].try_into().unwrap();
        me.underlay.v4 = Some(Ipv4Addr::new(192, 0, 2, 77));
        me.underlay.lower = name("far0");
        me.subnets = support::subnets(200, true);
        network.mtu = mtu(1300);
        network.backend = Backend::Vxlan(VxlanBackend { learning: true, ..VxlanBackend::default() });
        let changed = net.converge(&network, &desired(&network, &me, &peers)).await;
        assert!(!lines(&changed).iter().any(|line| line.contains("- device")), "{:?}", lines(&changed));
        assert_eq!(net.index("loden1a").await, index);
    });
}

#[test]
fn a_device_that_was_tampered_with_is_repaired() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let wanted = desired(&network, &me, &[peer(&network, 2), peer(&network, 3)]);
        net.converge(&network, &wanted).await;
        let index = net.index("loden1a").await.unwrap();
        net.set(LinkUnspec::new_with_index(index).down()).await;
        net.set(LinkUnspec::new_with_index(index).mtu(1300).address(vec![2, 0, 0, 0, 9, 9])).await;
        let eui64 = AfSpecInet6::AddrGenMode(rtnetlink::packet_route::link::In6AddrGenMode::Eui64);
        let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![eui64])]);
        net.set(LinkUnspec::new_with_index(index).append_extra_attribute(spec)).await;
        let repair = net.converge(&network, &wanted).await;
        let repair = lines(&repair);
        assert!(repair.contains(&"~ device loden1a up".to_owned()), "{repair:?}");
        assert!(repair.contains(&"~ device loden1a addrgenmode none".to_owned()), "{repair:?}");
        assert_eq!(net.index("loden1a").await, Some(index));
    });
}

#[test]
fn a_device_that_was_too_small_for_ipv6_gets_it_back_in_one_pass() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &me(&network), &[peer(&network, 2)]);
        net.converge(&network, &wanted).await;
        let index = net.index("loden1a").await.unwrap();
        net.set(LinkUnspec::new_with_index(index).mtu(1200)).await;
        net.converge(&network, &wanted).await;
    });
}

#[test]
fn a_device_without_its_alias_is_taken_back() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let wanted = desired(&network, &me(&network), &[peer(&network, 2)]);
        // As a process leaves it that ends right after creating it.
        let create = plan(&Tables::default(), &wanted).into_steps().remove(0);
        assert!(matches!(create, Step::CreateDevice(..)));
        assert!(net.run([create]).await.is_complete());
        let rest = net.converge(&network, &wanted).await;
        assert!(lines(&rest).contains(&"~ device loden1a alias loden:default:vxlan-ipv4".to_owned()));
    });
}

#[test]
fn a_foreign_device_in_the_way_is_named() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let wanted = desired(&network, &me(&network), &[]);
        let flannel = LinkVxlan::new("flannel.1", 1).port(8472).build();
        net.stranger.link().add(flannel).execute().await.unwrap();
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let (step, error) = &report.failed[0];
        assert!(matches!(step, Step::CreateDevice(..)));
        assert!(
            matches!(error, Error::VniTaken { holder, vni: 1, port: 8472 } if holder == "flannel.1"),
            "{error}"
        );

        let flannel = net.index("flannel.1").await.unwrap();
        net.stranger.link().del(flannel).execute().await.unwrap();
        let other = rtnetlink::LinkBridge::new("loden1a").build();
        net.stranger.link().add(other).execute().await.unwrap();
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let error = report.failed[0].1.to_string();
        assert!(error.contains("loden1a") && error.contains("bridge"), "{error}");
    });
}

#[test]
fn a_bad_step_in_a_batch_fails_alone_and_says_why() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let me = me(&network);
        net.converge(&network, &desired(&network, &me, &[])).await;
        let peers: Vec<Peer> = (2..20).map(|number| peer(&network, number)).collect();
        let wanted = desired(&network, &me, &peers);
        let mut steps = plan(&desired(&network, &me, &[]), &wanted).into_steps();
        let total = steps.len();
        let bad = steps.iter_mut().filter_map(|step| match step {
            Step::SetRoute(_, route) => Some(route),
            _ => None,
        });
        // Not on the link: the kernel cannot know where that gateway is.
        bad.skip(7).take(1).for_each(|route| {
            route.onlink = false;
            route.gateway = "203.0.113.1".parse().unwrap();
        });
        let report = net.run(steps).await;
        assert_eq!(report.executed, total - 1);
        assert_eq!(report.failed.len(), 1);
        let (step, error) = &report.failed[0];
        assert!(matches!(step, Step::SetRoute(..)), "{step}");
        assert_eq!(error.to_string(), "the kernel refused: Nexthop has invalid gateway (ENETUNREACH)");
        net.converge(&network, &wanted).await;
    });
}

#[test]
fn what_is_gone_already_counts_as_unset() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let with = desired(&network, &me, &[peer(&network, 2)]);
        let without = desired(&network, &me, &[]);
        net.converge(&network, &without).await;
        let removal = plan(&with, &without);
        assert_eq!(removal.len(), 5);
        let report = net.kernel.execute(&removal).await;
        assert!(report.is_complete(), "{:?}", report.failed);
        // Also when the whole device is.
        let index = net.index("loden1a").await.unwrap();
        net.stranger.link().del(index).execute().await.unwrap();
        assert!(net.kernel.execute(&removal).await.is_complete());
        let create = plan(&without, &with);
        let report = net.kernel.execute(&create).await;
        assert!(matches!(report.failed[0].1, Error::NoDevice(_)), "{:?}", report.failed);
        assert_eq!(report.failed.len(), create.len());
    });
}

#[test]
fn peers_of_both_families_go_over_the_underlay_that_both_have() {
    in_namespace(async |mut net| {
        let network = network();
        let me = dual_underlay(me(&network));
        let mut over_v6 = peer(&network, 2);
        let Receiver::Vxlan(vtep) = over_v6.endpoint.receivers[0];
        over_v6.endpoint.v4 = None;
        over_v6.endpoint.v6 = Some("2001:db8:ffff::2".parse().unwrap());
        over_v6.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V6, vtep.mac))];
        let wanted = desired(&network, &me, &[over_v6.clone(), peer(&network, 3)]);
        net.converge(&network, &wanted).await;

        let device = name("loden1b");
        let actual = net.kernel.observe(&backend::scope(&network)).await.unwrap();
        assert_eq!(actual.devices[&device].mtu, 1430);
        assert_eq!(actual.devices[&name("loden1a")].mtu, 1450);
        assert_eq!(backend::pod_mtu(&network, &me.underlay), 1430);
        assert!(actual.fdb.contains_key(&FdbKey { device, mac: vtep.mac }));
        for address in ["10.244.2.0".parse().unwrap(), IpAddr::V6(vtep.mac.link_local())] {
            assert!(actual.neighbours.contains_key(&NeighbourKey { device, address }), "{address}");
        }
        for prefix in over_v6.subnets.iter() {
            let key = RouteKey { prefix, metric: metric(prefix) };
            assert_eq!(actual.routes[&key].device, device);
        }
        // It moves to the other underlay by replacing, and is swept here.
        let moved =
            net.converge(&network, &desired(&network, &me, &[peer(&network, 2), peer(&network, 3)])).await;
        assert!(!lines(&moved).iter().any(|line| line.starts_with("- route")), "{:?}", lines(&moved));
    });
}

#[test]
fn two_thousand_peers_are_programmed_and_read_back() {
    in_namespace(async |mut net| {
        let mut network = network_v4();
        network.pools =
            vec![loden_proto::model::Pool::new("10.0.0.0/10".parse().unwrap(), Some(24)).unwrap()];
        let me = me(&network);
        let peers: Vec<Peer> = (0..2000u32)
            .map(|number| {
                let mut peer = peer(&network, 2);
                peer.node = format!("node-{number}").parse().unwrap();
                let slot = network.pools[0].slot(number + 1).unwrap();
                peer.subnets = loden_proto::model::Subnets::new([slot]).unwrap();
                let mac = backend::mac_of(&peer.node, &network.id);
                peer.endpoint.v4 = Some(Ipv4Addr::from(0xc612_0001 + number));
                peer.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V4, mac))];
                peer
            })
            .collect();
        let wanted = desired(&network, &me, &peers);
        assert_eq!(wanted.routes.len(), 2000);
        net.converge(&network, &wanted).await;
        net.converge(&network, &desired(&network, &me, &peers[..10])).await;
    });
}

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

/// Waits for a hint that concerns the owner of `desired`.
async fn concerned(hints: &mut Hints, desired: &Tables) -> Hint {
    let wait = async {
        loop {
            let hint = hints.recv().await.expect("hints end with the datapath only");
            if hint.concerns(desired) {
                return hint;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("nobody was told")
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
                if matches!(hint, Hint::Address(key) if key.address.addr() == mark) {
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
        let elsewhere = net.stranger.neighbours().add_bridge(index, &fdb_key.mac.octets());
        let own = rtnetlink::packet_route::neighbour::NeighbourFlags::Own;
        let elsewhere = elsewhere.destination("192.0.2.250".parse().unwrap()).flags(own).replace();
        elsewhere.execute().await.unwrap();
        let hint = concerned(&mut hints, &wanted).await;
        assert!(matches!(hint, Hint::Fdb(key, Some(_)) if key == *fdb_key), "{hint:?}");
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
                if hint.concerns_underlay(&wanted) && matches!(hint, Hint::Address(_)) {
                    return hint;
                }
            }
        };
        let hint = tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.unwrap();
        let Hint::Address(key) = hint else { unreachable!("it was looked for") };
        assert_eq!((key.device, key.address.to_string()), (name("eth0"), "198.51.100.9/24".to_owned()));
        assert!(!Hint::Address(key).concerns(&wanted));
    });
}
