//! Peers in a real kernel, in a network namespace per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use loden_datapath::backend;
use loden_datapath::tables::{FdbKey, NeighbourKey, RouteKey, metric};
use loden_datapath::{Datapath, Error, Step, plan};
use loden_proto::model::{Family, Peer, Receiver};
use rtnetlink::{LinkVxlan, RouteMessageBuilder};
use support::netns::{Net, desired, in_namespace, lines, name, scope};
use support::{dual_underlay, me, network, network_v4, peer, receiver, vtep};

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
fn peers_come_move_and_leave() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let mut peers = vec![peer(&network, 2), peer(&network, 3)];
        net.converge(&network, &desired(&network, &me, &peers)).await;

        peers[0].endpoint.v4 = Some(Ipv4Addr::new(192, 0, 2, 9));
        let moved = net.converge(&network, &desired(&network, &me, &peers)).await;
        let vtep = vtep(&peers[0]);
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
        let actual = net.kernel.observe(&scope(&network)).await.unwrap();
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
        let scope = scope(&network);
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
        // A route through our device, a neighbour on it, a route with our protocol
        // number through another device, another tunnel, and one that is named
        // like ours.
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
        for (other, id) in [("flannel.7", 7), ("loden9a", 9)] {
            stranger.link().add(LinkVxlan::new(other, id).port(8472).build()).execute().await.unwrap();
        }

        assert!(net.converge(&network, &wanted).await.is_empty());
        net.converge(&network, &desired(&network, &me, &[])).await;
        let empty = net.kernel.observe(&scope(&network)).await.unwrap();
        assert!(plan(&empty, &desired(&network, &me, &[])).is_empty());
        for other in ["flannel.7", "loden9a"] {
            assert!(net.index(other).await.is_some(), "{other}");
        }
        let routes = net.routes().await;
        for prefix in ["198.51.100.0/24", "203.0.113.0/24"] {
            assert!(routes.contains(&prefix.to_owned()), "{prefix} in {routes:?}");
        }
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
            route.gateway = "203.0.113.1".parse().ok();
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
        let vtep = vtep(&over_v6);
        over_v6.endpoint.v4 = None;
        over_v6.endpoint.v6 = Some("2001:db8:ffff::2".parse().unwrap());
        over_v6.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V6, vtep.mac))];
        let wanted = desired(&network, &me, &[over_v6.clone(), peer(&network, 3)]);
        net.converge(&network, &wanted).await;

        let device = name("loden1b");
        let actual = net.kernel.observe(&scope(&network)).await.unwrap();
        assert_eq!(actual.devices[&device].mtu, 1430);
        assert_eq!(actual.devices[&name("loden1a")].mtu, 1430);
        assert_eq!(backend::pod_mtu(&network, &me.underlay), 1430);
        assert!(actual.fdb.contains_key(&FdbKey { device, mac: vtep.mac.octets() }));
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
