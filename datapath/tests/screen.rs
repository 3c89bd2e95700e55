//! What a host refuses to program, and that nobody else suffers for it.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use loden_datapath::backend::{Delta, Desired, Reason};
use loden_proto::model::{Family, Mac, Network, Peer, Pool, Receiver, Subnets, VxlanReceiver};
use loden_proto::names::NodeId;
use support::{me, network_v4, peer, vni};

fn with(network: &Network, number: u16, change: impl FnOnce(&mut Peer)) -> Peer {
    let mut peer = peer(network, number);
    change(&mut peer);
    peer
}

fn subnet(peer: &mut Peer, text: &str) {
    peer.subnets = Subnets::new([text.parse().unwrap()]).unwrap();
}

fn vtep(peer: &mut Peer, change: impl FnOnce(&mut VxlanReceiver)) {
    let Receiver::Vxlan(vtep) = &mut peer.endpoint.receivers[0] else { unreachable!("it has one") };
    change(vtep);
}

fn mac(last: u8) -> Mac {
    [2, 0, 0, 0, 0, last].try_into().unwrap()
}

fn node(number: u16) -> NodeId {
    format!("node-{number}").parse().unwrap()
}

/// Peers with a subnet or MAC address that is not for them.
fn bad_claims(network: &Network, own: Mac) -> Vec<(Peer, String)> {
    vec![
        (
            with(network, 9, |peer| subnet(peer, "198.18.0.0/24")),
            "its subnet 198.18.0.0/24 is not a slot of one of the network's pools".to_owned(),
        ),
        (
            with(network, 9, |peer| subnet(peer, "10.244.0.0/16")),
            "its subnet 10.244.0.0/16 is not a slot of one of the network's pools".to_owned(),
        ),
        (
            with(network, 9, |peer| subnet(peer, "0.0.0.0/1")),
            "its subnet 0.0.0.0/1 is not a slot of one of the network's pools".to_owned(),
        ),
        (
            with(network, 9, |peer| subnet(peer, "192.0.2.0/24")),
            "its subnet 192.0.2.0/24 overlaps 192.0.2.0/24, which this host reaches over its underlay"
                .to_owned(),
        ),
        (
            with(network, 9, |peer| subnet(peer, "10.244.1.0/24")),
            "its subnet 10.244.1.0/24 is this host's own".to_owned(),
        ),
        (
            with(network, 9, |peer| subnet(peer, "10.244.2.0/24")),
            "its subnet 10.244.2.0/24 is that of the peer node-2".to_owned(),
        ),
        (
            with(network, 9, |peer| vtep(peer, |vtep| vtep.mac = own)),
            format!("its MAC address {own} is this host's own"),
        ),
        (
            with(network, 9, |peer| vtep(peer, |vtep| vtep.mac = mac(2))),
            "its MAC address 02:00:00:00:00:02 is that of the peer node-2".to_owned(),
        ),
    ]
}

/// Peers that this host cannot send to.
fn bad_endpoints(network: &Network) -> Vec<(Peer, String)> {
    vec![
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("192.0.2.1".parse().unwrap())),
            "its underlay address 192.0.2.1 is this host's own".to_owned(),
        ),
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("198.51.100.2".parse().unwrap())),
            "its underlay address 198.51.100.2 is that of the peer node-2".to_owned(),
        ),
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("0.0.0.0".parse().unwrap())),
            "its underlay address 0.0.0.0 is the unspecified address; peers cannot send to it".to_owned(),
        ),
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("224.0.0.9".parse().unwrap())),
            "its underlay address 224.0.0.9 is a multicast address; it must be unicast".to_owned(),
        ),
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("127.0.0.9".parse().unwrap())),
            "its underlay address 127.0.0.9 is a loopback address; packets would not leave".to_owned(),
        ),
        (
            with(network, 9, |peer| peer.endpoint.v4 = Some("10.244.7.7".parse().unwrap())),
            "its underlay address 10.244.7.7 lies in the network's own pool 10.244.0.0/16".to_owned(),
        ),
        (
            with(network, 9, |peer| vtep(peer, |vtep| vtep.vni = vni(7))),
            "it receives on VNI 7 only; the network's is 1".to_owned(),
        ),
        (
            with(network, 9, |peer| vtep(peer, |vtep| vtep.gbp = true)),
            "it receives on nothing that this host can send to: it offers VXLAN over IPv4, VNI 1, with GBP; \
             this host sends VXLAN over IPv4, VNI 1, without GBP"
                .to_owned(),
        ),
        (
            with(network, 9, |peer| vtep(peer, |vtep| vtep.family = Family::V6)),
            "it receives on nothing that this host can send to: \
             it offers VXLAN over IPv6, VNI 1, without GBP (but no IPv6 underlay address); \
             this host sends VXLAN over IPv4, VNI 1, without GBP"
                .to_owned(),
        ),
    ]
}

#[test]
fn a_bad_peer_is_named_and_the_others_are_programmed() {
    let mut network = network_v4();
    // The underlay's own range among the pools: a slot of it is a slot.
    network.pools.push(Pool::new("192.0.0.0/16".parse().unwrap(), Some(24)).unwrap());
    let me = me(&network);
    let cases = bad_claims(&network, me.mac).into_iter().chain(bad_endpoints(&network));
    let good = with(&network, 2, |peer| {
        vtep(peer, |vtep| vtep.mac = mac(2));
        peer.endpoint.v4 = Some("198.51.100.2".parse().unwrap());
    });
    for (mut bad, reason) in cases {
        if bad.endpoint.v4 == Some("192.0.2.9".parse().unwrap()) {
            // Outside the pool that this test adds.
            bad.endpoint.v4 = Some("198.51.100.9".parse().unwrap());
        }
        let mut desired = Desired::new(network.clone(), me.clone());
        let alone = desired.replace([good.clone()]);
        desired.apply(Delta { removed: vec![], upserted: vec![bad.clone().into()] });
        assert_eq!(desired.refused()[&bad.node].to_string(), reason);
        assert_eq!(desired.refused().len(), 1, "{:?}", desired.refused());
        let late = with(&network, 3, |peer| peer.endpoint.v4 = Some("198.51.100.3".parse().unwrap()));
        let next = desired.apply(Delta { removed: vec![], upserted: vec![late.into()] });
        assert_eq!(next.len(), alone.len(), "{reason}");
    }
}

#[test]
fn a_peer_that_is_not_ready_to_receive_waits_and_is_not_refused() {
    let network = network_v4();
    let mut desired = Desired::new(network.clone(), me(&network));
    let early = with(&network, 9, |peer| peer.endpoint.receivers.clear());
    let plan = desired.replace([early]);
    assert!(plan.is_empty() && desired.refused().is_empty(), "{plan:?}");
    assert!(desired.waiting().contains(&node(9)));
    let plan = desired.apply(Delta { removed: vec![], upserted: vec![peer(&network, 9).into()] });
    assert!(!plan.is_empty() && desired.waiting().is_empty());
    let early = with(&network, 9, |peer| peer.endpoint.receivers.clear());
    desired.apply(Delta { removed: vec![], upserted: vec![early.into()] });
    desired.apply(Delta { removed: vec![node(9)], upserted: vec![] });
    assert!(desired.waiting().is_empty());
}

#[test]
fn who_holds_it_keeps_it_and_the_next_by_name_follows() {
    let network = network_v4();
    let mut desired = Desired::new(network.clone(), me(&network));
    let claim = |number| with(&network, number, |peer| subnet(peer, "10.244.50.0/24"));
    desired.replace([claim(7)]);
    desired.apply(Delta { removed: vec![], upserted: vec![claim(5).into(), claim(3).into()] });
    let holder = |desired: &Desired, number| match &desired.refused()[&node(number)] {
        Reason::SubnetTaken { holder, .. } => holder.clone(),
        other => panic!("{other}"),
    };
    assert_eq!((holder(&desired, 5), holder(&desired, 3)), (node(7), node(7)));
    // The holder changes, and keeps it.
    let moved = with(&network, 7, |peer| {
        subnet(peer, "10.244.50.0/24");
        peer.endpoint.v4 = Some("192.0.2.77".parse().unwrap());
    });
    assert_eq!(desired.apply(Delta { removed: vec![], upserted: vec![moved.into()] }).len(), 1);
    assert_eq!(holder(&desired, 3), node(7));
    // The holder leaves: the first by name has it without being asked again.
    let plan = desired.apply(Delta { removed: vec![node(7)], upserted: vec![] });
    assert!(plan.steps().iter().any(|step| step.to_string().starts_with("+ neighbour 10.244.50.0")));
    assert!(!desired.refused().contains_key(&node(3)));
    assert_eq!(holder(&desired, 5), node(3));
}

#[test]
fn a_set_at_once_gives_the_same_answer_in_any_order() {
    let network = network_v4();
    let peers: Vec<Peer> =
        (2..6).map(|number| with(&network, number, |peer| vtep(peer, |vtep| vtep.mac = mac(1)))).collect();
    let answer = |peers: Vec<Peer>| {
        let mut desired = Desired::new(network.clone(), me(&network));
        desired.replace(peers);
        (desired.tables().clone(), desired.refused().clone())
    };
    let forward = answer(peers.clone());
    assert_eq!(forward, answer(peers.into_iter().rev().collect()));
    assert_eq!(forward.1.len(), 3);
}

#[test]
fn two_peers_may_change_places_in_one_delta() {
    let network = network_v4();
    let mut desired = Desired::new(network.clone(), me(&network));
    let (mut a, mut b) = (peer(&network, 2), peer(&network, 3));
    desired.replace([a.clone(), b.clone()]);
    std::mem::swap(&mut a.subnets, &mut b.subnets);
    std::mem::swap(&mut a.endpoint, &mut b.endpoint);
    let plan = desired.apply(Delta { removed: vec![], upserted: vec![a.into(), b.into()] });
    assert!(desired.refused().is_empty(), "{:?}", desired.refused());
    assert!(plan.is_empty(), "the tables are the same: {plan:?}");
}

#[test]
fn this_host_is_no_peer_of_its_own() {
    let network = network_v4();
    let mut desired = Desired::new(network.clone(), me(&network));
    assert!(desired.replace([peer(&network, 1)]).is_empty());
    assert!(desired.refused().is_empty());
}
