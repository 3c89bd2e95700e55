//! Who is reached without encapsulation, and by which way.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::collections::BTreeMap;

use loden_datapath::backend::{self, Delta, Desired, Me, Reason};
use loden_datapath::{Plan, Tables, plan};
use loden_proto::model::{Backend, Family, Network, Peer, Receiver, VxlanBackend};
use support::{dual_underlay, links, me, mtu, network, network_v4, peer, receiver, routed, routes_to, vtep};

fn host_gw() -> Network {
    Network { backend: Backend::HostGw, ..network() }
}

fn direct() -> Network {
    Network {
        backend: Backend::Vxlan(VxlanBackend { direct_routing: true, ..Default::default() }),
        ..network()
    }
}

/// Host `number` with an address of both families.
fn dual(network: &Network, number: u16) -> Peer {
    let mut peer = peer(network, number);
    peer.endpoint.v6 = Some(format!("2001:db8:ffff::{number}").parse().unwrap());
    routed(peer)
}

/// The routes to a peer, as words, and what it lacks.
fn ways(network: &Network, me: &Me, peer: &Peer) -> (Vec<String>, Option<Reason>) {
    let entries = backend::peer_tables(network, me, peer);
    let words = |(key, route): (&_, &_)| format!("{key} {route}");
    (entries.tables.routes.iter().map(words).collect(), entries.lacking)
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps().iter().map(ToString::to_string).collect()
}

#[test]
fn host_gw_leads_to_the_next_hop_of_each_family_and_makes_no_device() {
    let network = host_gw();
    let me = me(&network);
    assert_eq!(backend::own_tables(&network, &me), Tables::default());
    let (routes, lacking) = ways(&network, &me, &dual(&network, 2));
    assert_eq!(
        routes,
        [
            "10.244.2.0/24 metric 3 via 192.0.2.2 dev eth0",
            "2001:db8:0:2::/64 metric 3 via 2001:db8:ffff::2 dev eth0"
        ]
    );
    assert_eq!(lacking, None);
    assert_eq!(backend::pod_mtu(&network, &me.underlay), 1500);
}

#[test]
fn an_ipv4_subnet_is_reached_over_ipv6_but_not_the_reverse() {
    let network = host_gw();
    let me = me(&network);
    let mut v6_only = dual(&network, 2);
    v6_only.endpoint.v4 = None;
    let (routes, lacking) = ways(&network, &me, &v6_only);
    assert_eq!(routes[0], "10.244.2.0/24 metric 3 via 2001:db8:ffff::2 dev eth0");
    assert_eq!((routes.len(), lacking), (2, None));

    // The family that has a way goes it, and the other one is named.
    let (routes, lacking) = ways(&network, &me, &routed(peer(&network, 2)));
    assert_eq!(routes, ["10.244.2.0/24 metric 3 via 192.0.2.2 dev eth0"]);
    let lacking = lacking.unwrap().to_string();
    assert!(lacking.contains("2001:db8:0:2::/64") && lacking.contains("IPv6 address"), "{lacking}");
}

#[test]
fn who_is_behind_a_gateway_or_gone_from_the_link_is_named_and_the_others_go_on() {
    let network = host_gw();
    let mut me = me(&network);
    me.underlay.links = links(&[
        ("0.0.0.0/0", Some("192.0.2.254")),
        ("192.0.2.0/24", None),
        // A more specific way than the link's.
        ("192.0.2.3/32", Some("192.0.2.254")),
        ("2001:db8:ffff::/64", None),
    ]);
    let mut far = dual(&network, 4);
    far.endpoint.v4 = Some("198.51.100.4".parse().unwrap());
    far.endpoint.v6 = None;
    let peers = [
        dual(&network, 2),
        {
            Peer {
                endpoint: {
                    let mut e = dual(&network, 3).endpoint;
                    e.v6 = None;
                    e
                },
                ..dual(&network, 3)
            }
        },
        far,
    ];
    let mut desired = Desired::new(network, me);
    desired.apply(Delta { removed: Vec::new(), upserted: peers.iter().cloned().map(Into::into).collect() });
    let refused: BTreeMap<_, _> =
        desired.refused().iter().map(|(node, reason)| (node.as_str(), reason.to_string())).collect();
    assert_eq!(refused.keys().copied().collect::<Vec<_>>(), ["node-3", "node-4"]);
    assert_eq!(refused["node-3"], "its underlay address 192.0.2.3 is not on a link of this host");
    assert_eq!(refused["node-4"], "its underlay address 198.51.100.4 is not on a link of this host");
    assert_eq!(desired.tables().routes.len(), 2, "of node-2");
}

#[test]
fn who_offers_nothing_is_waited_for() {
    let network = host_gw();
    let mut peer = dual(&network, 2);
    peer.endpoint.receivers.clear();
    let mut desired = Desired::new(network.clone(), me(&network));
    desired.apply(Delta { removed: Vec::new(), upserted: vec![peer.into()] });
    assert_eq!(desired.waiting().len(), 1);
    assert!(desired.refused().is_empty());
}

#[test]
fn a_neighbour_that_does_not_answer_keeps_its_route_and_is_named() {
    let network = Network { backend: Backend::HostGw, ..network_v4() };
    let mut desired = Desired::new(network.clone(), me(&network));
    desired.apply(Delta {
        removed: Vec::new(),
        upserted: vec![routed(peer(&network, 2)).into(), routed(peer(&network, 3)).into()],
    });
    let address = "192.0.2.2".parse().unwrap();
    assert!(desired.answers(address, false).is_empty(), "packets make the kernel ask again");
    let (node, reason) = desired.refused().first_key_value().unwrap();
    assert_eq!(
        (node.as_str(), reason.to_string().as_str()),
        ("node-2", "its underlay address 192.0.2.2 does not answer on eth0")
    );
    assert!(desired.answers(address, true).is_empty());
    assert!(desired.refused().is_empty());
    assert!(desired.answers("192.0.2.77".parse().unwrap(), false).is_empty(), "nobody's");
}

#[test]
fn where_one_family_does_not_answer_an_ipv4_subnet_goes_by_the_other() {
    let network = host_gw();
    let mut desired = Desired::new(network.clone(), me(&network));
    desired.apply(Delta { removed: Vec::new(), upserted: vec![dual(&network, 2).into()] });
    let address = "192.0.2.2".parse().unwrap();
    let moved = lines(&desired.answers(address, false));
    assert_eq!(moved, ["+ route 10.244.2.0/24 metric 3 via 2001:db8:ffff::2 dev eth0"]);
    assert!(desired.refused().is_empty());
    // Where neither answers, nothing is gained.
    let back = lines(&desired.answers("2001:db8:ffff::2".parse().unwrap(), false));
    assert_eq!(back, ["+ route 10.244.2.0/24 metric 3 via 192.0.2.2 dev eth0"]);
    assert_eq!(desired.refused().len(), 1);
}

#[test]
fn of_two_addresses_the_one_of_a_family_that_this_host_has_is_named() {
    let network = host_gw();
    let mut me = me(&network);
    me.underlay.links = links(&[]);
    (me.underlay.v4, me.underlay.v6) = (None, Some("2001:db8:ffff::1".parse().unwrap()));
    let (_, lacking) = ways(&network, &me, &dual(&network, 2));
    assert_eq!(lacking, Some(Reason::NotAdjacent { address: "2001:db8:ffff::2".parse().unwrap() }));
}

#[test]
fn a_vxlan_peer_that_no_route_leads_to_keeps_its_entries_and_is_named() {
    let network = network();
    let near = me(&network);
    let mut far = near.clone();
    far.underlay.ways = routes_to(&["198.51.100.0/24"]);
    let (all, refused) = backend::tables(&network, &near, [&peer(&network, 2)]);
    assert!(refused.is_empty());
    let (still, refused) = backend::tables(&network, &far, [&peer(&network, 2)]);
    assert_eq!(still, all, "the route may be back in a moment");
    let told: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["peer node-2: this host has no route to its underlay address 192.0.2.2"]);
}

#[test]
fn a_vxlan_peer_is_sent_to_over_the_family_that_a_route_leads_over() {
    let network = network();
    let mut me = dual_underlay(me(&network));
    let mut peer = dual(&network, 2);
    peer.endpoint.receivers.push(Receiver::Vxlan(receiver(&network, Family::V6, vtep(&peer).mac)));
    for (leads, device) in [("192.0.2.0/24", "loden1a"), ("2001:db8:ffff::/64", "loden1b")] {
        me.underlay.ways = routes_to(&[leads]);
        let (routes, lacking) = ways(&network, &me, &peer);
        assert!(routes.iter().all(|route| route.contains(device)), "{routes:?}");
        assert_eq!(lacking, None);
    }
}

#[test]
fn a_vxlan_peer_moves_between_link_and_tunnel_by_one_route_replaced_per_subnet() {
    let network = direct();
    let near = me(&network);
    let mut far = near.clone();
    far.underlay.links = links(&[("0.0.0.0/0", Some("192.0.2.254")), ("2001:db8:ffff::/64", None)]);
    let peer = dual(&network, 2);
    let all = |me: &Me| {
        let (tables, refused) = backend::tables(&network, me, [&peer]);
        assert!(refused.is_empty(), "{refused:?}");
        tables
    };
    let moved = lines(&plan(&all(&near), &all(&far)));
    // The IPv4 subnet is reached over the other family's link still.
    assert_eq!(moved, ["+ route 10.244.2.0/24 metric 3 via 2001:db8:ffff::2 dev eth0 mtu 1450"]);
    far.underlay.links = links(&[("0.0.0.0/0", Some("192.0.2.254"))]);
    let moved = lines(&plan(&all(&near), &all(&far)));
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert!(
        moved.iter().all(|step| step.starts_with("+ route") && step.contains("dev loden1a")),
        "{moved:?}"
    );
}

#[test]
fn a_vxlan_peer_that_does_not_answer_on_the_link_goes_through_the_tunnel() {
    let network = direct();
    let mut desired = Desired::new(network.clone(), me(&network));
    desired.apply(Delta { removed: Vec::new(), upserted: vec![routed(peer(&network, 2)).into()] });
    let address = "192.0.2.2".parse().unwrap();
    let moved = lines(&desired.answers(address, false));
    assert_eq!(moved, ["+ route 10.244.2.0/24 metric 3 via 10.244.2.0 dev loden1a onlink"]);
    assert!(desired.refused().is_empty());
    let back = lines(&desired.answers(address, true));
    assert_eq!(back, ["+ route 10.244.2.0/24 metric 3 via 192.0.2.2 dev eth0 mtu 1450"]);
}

#[test]
fn who_does_not_offer_to_route_gets_the_tunnel() {
    let network = direct();
    let (routes, lacking) = ways(&network, &me(&network), &peer(&network, 2));
    assert!(routes.iter().all(|route| route.contains("dev loden1a")), "{routes:?}");
    assert_eq!(lacking, None);
}

#[test]
fn a_link_that_takes_more_than_pods_takes_what_they_do() {
    let mut network = direct();
    let mut peer = routed(peer(&network, 2));
    let v4 = |network: &Network, peer: &Peer| ways(network, &me(network), peer).0.remove(0);
    let direct = "10.244.2.0/24 metric 3 via 192.0.2.2 dev eth0";
    assert_eq!(v4(&network, &peer), format!("{direct} mtu 1450"));
    for (theirs, mtu) in [(1430, 1430), (8950, 1450), (0, 1450)] {
        set_mtu(&mut peer, theirs);
        assert_eq!(v4(&network, &peer), format!("{direct} mtu {mtu}"));
    }
    network.backend = Backend::HostGw;
    peer.endpoint.receivers.retain(|receiver| receiver.kind() == "routed");
    assert_eq!(v4(&network, &peer), direct);
    network.mtu = mtu(1400);
    assert_eq!(v4(&network, &peer), format!("{direct} mtu 1400"));
    network.mtu = None;
    for receiver in &mut peer.endpoint.receivers {
        let Receiver::Routed(routed) = receiver else { continue };
        routed.mtu = 1300;
    }
    assert_eq!(v4(&network, &peer), format!("{direct} mtu 1300"));
}

#[test]
fn a_tunnel_takes_no_more_than_the_pods_behind_it() {
    let network = network();
    let me = me(&network);
    let mut peer = peer(&network, 2);
    let tunnel = "10.244.2.0/24 metric 3 via 10.244.2.0 dev loden1a onlink";
    for (theirs, told) in [(1450, ""), (8950, ""), (0, ""), (1430, " mtu 1430")] {
        set_mtu(&mut peer, theirs);
        assert_eq!(ways(&network, &me, &peer).0[0], format!("{tunnel}{told}"));
    }
}

fn set_mtu(peer: &mut Peer, mtu: u32) {
    for receiver in &mut peer.endpoint.receivers {
        if let Receiver::Vxlan(vtep) = receiver {
            vtep.mtu = mtu;
        }
    }
}
