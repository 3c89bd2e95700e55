//! Networks, hosts and peers for tests; and a network namespace per test.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "what a test builds is right, or the test fails")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use loden_datapath::backend::{Links, Me, Underlay, Ways, mac_of};
use loden_datapath::{HostFacts, HostRoute, Interface};
use loden_proto::model::{
    Backend, Endpoint, Family, Key, Mac, Mtu, Network, Peer, Pool, Port, Receiver, RoutedReceiver, Subnets,
    UdpBackend, UdpReceiver, Vni, VxlanBackend, VxlanReceiver,
};

pub(crate) mod netns;
pub(crate) mod shelf;

pub(crate) fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

/// A dual-stack network: `10.244.0.0/16` in /24, `2001:db8::/48` in /64.
pub(crate) fn network() -> Network {
    let pool = |cidr: &str| Pool::new(cidr.parse().unwrap(), None).unwrap();
    Network {
        id: "default".parse().unwrap(),
        pools: vec![pool("10.244.0.0/16"), pool("2001:db8::/48")],
        vni: vni(1),
        mtu: None,
        backend: Backend::Vxlan(VxlanBackend::default()),
        lease_ttl: None,
        masquerade: None,
        created: SystemTime::UNIX_EPOCH,
        revision: 1,
    }
}

/// The same with IPv4 only.
pub(crate) fn network_v4() -> Network {
    let mut network = network();
    network.pools.truncate(1);
    network
}

pub(crate) fn subnets(number: u16, dual: bool) -> Subnets {
    let [high, low] = number.to_be_bytes();
    assert_eq!(high, 0, "one octet of slots in 10.244.0.0/16");
    let v4 = format!("10.244.{low}.0/24").parse().unwrap();
    let v6 = format!("2001:db8:0:{number:x}::/64").parse().unwrap();
    Subnets::new(if dual { vec![v4, v6] } else { vec![v4] }).unwrap()
}

/// Host 1 on `eth0` with 192.0.2.1 and 2001:db8:ffff::1.
pub(crate) fn me(network: &Network) -> Me {
    let node = "node-1".parse().unwrap();
    let mac = mac_of(&node, &network.id);
    Me {
        node,
        subnets: subnets(1, network.families().len() > 1),
        underlay: Underlay {
            lower: "eth0".parse().unwrap(),
            mtu: 1500,
            v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            v6: None,
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            links: links(&[("192.0.2.0/24", None), ("2001:db8:ffff::/64", None)]),
            ways: Ways::anywhere(),
            unanswered: BTreeSet::new(),
            routed: vec![Family::V4],
            inner: vec![Family::V4, Family::V6],
        },
        mac,
        keys: Vec::new(),
        blackhole: false,
        udp_port: None,
    }
}

/// The links of a host with one NIC, `eth0`, and these routes over it, each
/// with its gateway.
pub(crate) fn links(routes: &[(&str, Option<&str>)]) -> Links {
    Links::of(&facts(routes), &subnets(1, true))
}

/// The ways of the same host with routes over its link.
pub(crate) fn routes_to(prefixes: &[&str]) -> Ways {
    let routes: Vec<_> = prefixes.iter().map(|prefix| (*prefix, None)).collect();
    Ways::of(&facts(&routes), &subnets(1, true))
}

fn facts(routes: &[(&str, Option<&str>)]) -> HostFacts {
    let name = "eth0".parse().unwrap();
    let nic = Interface::ethernet(2, name);
    let route = |(prefix, gateway): &(&str, Option<&str>)| HostRoute {
        prefix: prefix.parse().unwrap(),
        device: Some(name),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        metric: 0,
        drops: false,
    };
    let routes = routes.iter().map(route).collect();
    HostFacts { interfaces: vec![nic], routes, ..HostFacts::default() }
}

/// The same peer, as one that takes packets without encapsulation too.
pub(crate) fn routed(mut peer: Peer) -> Peer {
    for family in [Family::V4, Family::V6] {
        if peer.endpoint.address(family).is_some() {
            peer.endpoint.receivers.push(Receiver::Routed(RoutedReceiver { family, mtu: 0 }));
        }
    }
    peer
}

/// The first VTEP of a peer.
pub(crate) fn vtep(peer: &Peer) -> VxlanReceiver {
    *peer.endpoint.vteps().next().unwrap()
}

pub(crate) fn receiver(network: &Network, family: Family, mac: Mac) -> VxlanReceiver {
    VxlanReceiver { family, vni: network.vni, port: Port::VXLAN, mac, mtu: 1450, gbp: false }
}

/// Host `number` at 192.0.2.`number`.
pub(crate) fn peer(network: &Network, number: u16) -> Peer {
    let node = format!("node-{number}").parse().unwrap();
    let mac = mac_of(&node, &network.id);
    let receivers = vec![Receiver::Vxlan(receiver(network, Family::V4, mac))];
    Peer {
        node,
        subnets: subnets(number, network.families().len() > 1),
        endpoint: Endpoint { v4: Some(Ipv4Addr::new(192, 0, 2, number as u8)), v6: None, receivers },
    }
}

/// A host that has both underlays.
pub(crate) fn dual_underlay(mut me: Me) -> Me {
    me.underlay.v6 = Some(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
    me.underlay.prefixes.push("2001:db8:ffff::/64".parse().unwrap());
    me
}

pub(crate) fn mtu(bytes: u32) -> Option<Mtu> {
    Some(Mtu::try_from(bytes).unwrap())
}

/// A dual-stack network over the UDP tunnel, and host 1 in it with the keys 1 and 2.
pub(crate) fn udp() -> (Network, Me) {
    let network = Network { backend: Backend::Udp(UdpBackend::default()), ..network() };
    let me = Me { keys: vec![key(1), key(2)], ..me(&network) };
    (network, me)
}

/// Host `number` at 192.0.2.`number` with the key 100 + `number`.
pub(crate) fn udp_peer(network: &Network, number: u16) -> Peer {
    let mut peer = peer(network, number);
    peer.endpoint.receivers = vec![Receiver::Udp(UdpReceiver {
        family: Family::V4,
        vni: network.vni,
        port: Port::UDP,
        key: key(100 + u64::from(number)),
        mtu: 1460,
    })];
    peer
}

pub(crate) fn key(number: u64) -> Key {
    Key::try_from(number).unwrap()
}
