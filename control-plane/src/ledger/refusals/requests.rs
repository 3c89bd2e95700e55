//! What is refused of what agents and admins say of nodes: endpoints, claims, reservations.

use ipnet::IpNet;
use loden_proto::model::{
    Backend, Endpoint, Family, Key, Port, Receiver, RoutedReceiver, UdpReceiver, Vni, VxlanReceiver,
};

use super::{create, rig, told, udp};
use crate::ledger::testing::{
    Rig, acquire, acquire_at, claim, endpoint, name, pool, release, reserve, update_network, with_vtep,
};
use crate::ledger::{Command, NetworkChange, Want};

#[test]
fn bad_endpoints_are_refused_by_name() {
    let at = |change: fn(&mut Endpoint)| {
        let mut endpoint = with_vtep(3, 1);
        change(&mut endpoint);
        acquire_at("blue", "c", 1, endpoint)
    };
    fn vtep(endpoint: &mut Endpoint) -> &mut VxlanReceiver {
        let Receiver::Vxlan(vtep) = &mut endpoint.receivers[0] else { unreachable!("it is a VTEP") };
        vtep
    }
    let cases: Vec<(Command, &str)> = vec![
        (
            at(|endpoint| endpoint.v4 = None),
            "endpoint.address_v4: an IPv4 or IPv6 underlay address is required",
        ),
        (
            at(|endpoint| endpoint.v4 = Some([0, 0, 0, 0].into())),
            "endpoint.address_v4: \"0.0.0.0\" is the unspecified address; peers cannot send to it",
        ),
        (
            at(|endpoint| endpoint.v4 = Some([224, 0, 0, 1].into())),
            "endpoint.address_v4: \"224.0.0.1\" is a multicast address; it must be unicast",
        ),
        (
            at(|endpoint| endpoint.v6 = "fe80::1".parse().ok()),
            "endpoint.address_v6: \"fe80::1\" is a link-local address; peers cannot send to it without an interface",
        ),
        (
            at(|endpoint| endpoint.v4 = Some([127, 0, 0, 1].into())),
            "endpoint.address_v4: \"127.0.0.1\" is a loopback address; the server's configuration does not allow them",
        ),
        (
            at(|endpoint| endpoint.v4 = Some([10, 1, 2, 3].into())),
            "endpoint.address_v4: the pool 10.1.0.0/22 of networks/blue overlaps the underlay address 10.1.2.3 \
             of nodes/c; traffic to the underlay would go into the tunnel",
        ),
        (
            at(|endpoint| endpoint.v4 = Some([192, 0, 2, 1].into())),
            "endpoint.address_v4: \"192.0.2.1\" belongs to networks/blue/leases/a; it must be unique in the cluster",
        ),
        (
            at(|endpoint| vtep(endpoint).mac = [2, 0, 0, 0, 0, 1].try_into().unwrap()),
            "endpoint.receivers[0].vxlan.mac: \"02:00:00:00:00:01\" belongs to networks/blue/leases/a; it must \
             be unique in the network",
        ),
        (
            at(|endpoint| vtep(endpoint).vni = Vni::try_from(2).unwrap()),
            "endpoint.receivers[0].vxlan.vni: \"2\" must be 1, the VNI of the network blue",
        ),
        (
            at(|endpoint| vtep(endpoint).port = Port::try_from(4789).unwrap()),
            "endpoint.receivers[0].vxlan.port: \"4789\" must be 8472, the UDP port of the network blue",
        ),
        (
            at(|endpoint| vtep(endpoint).gbp = true),
            "endpoint.receivers[0].vxlan.gbp: \"true\" must be false, as in the network blue",
        ),
        (
            at(|endpoint| vtep(endpoint).family = Family::V6),
            "endpoint.receivers[0].vxlan.family: \"IPv6\" needs an IPv6 underlay address in the endpoint",
        ),
        (
            at(|endpoint| {
                let other = VxlanReceiver { mac: [2, 0, 0, 0, 0, 9].try_into().unwrap(), ..*vtep(endpoint) };
                endpoint.receivers.push(Receiver::Vxlan(other));
            }),
            "endpoint.receivers[1].vxlan.family: \"IPv4\" is that of another receiver of the kind vxlan; one per \
             family",
        ),
        (
            at(|endpoint| endpoint.receivers.push(Receiver::Udp(tunnel(Family::V4, 1, 8285)))),
            "endpoint.receivers[1].udp.port: \"8285\" is not taken: the backend of the network blue is vxlan",
        ),
    ];
    for (command, expected) in cases {
        let Command::AcquireLease { name, endpoint, .. } = &command else { panic!() };
        let mut rig = rig();
        let epoch = rig.must(acquire("blue", "c", 1)).want;
        assert_eq!(epoch, Want::Lease(name.clone()));
        let update = Command::UpdateEndpoint {
            name: name.clone(),
            epoch: rig.lease("blue", "c").epoch,
            endpoint: endpoint.clone(),
        };
        assert_eq!(rig.refused(update).to_string(), expected, "by UpdateEndpoint");
        assert_eq!(told(command), expected, "by AcquireLease");
    }
}

fn tunnel(family: Family, vni: u32, port: u32) -> UdpReceiver {
    UdpReceiver {
        family,
        vni: Vni::try_from(vni).unwrap(),
        port: Port::try_from(port).unwrap(),
        key: Key::try_from(0x1234_5678_9abc).unwrap(),
        mtu: 1460,
    }
}

#[test]
fn a_udp_network_takes_one_tunnel_per_family_on_whatever_port_it_is() {
    let mut rig = Rig::new();
    rig.must(create(|spec| spec.backend = udp(8285)));
    let v6 = "2001:db8::7".parse().ok();
    let at = |receivers: Vec<Receiver>| acquire_at("red", "c", 1, Endpoint { v6, receivers, ..endpoint(7) });
    let tunnels = |receivers: &[UdpReceiver]| at(receivers.iter().copied().map(Receiver::Udp).collect());
    let (v4, v6) = (tunnel(Family::V4, 1, 8285), tunnel(Family::V6, 1, 9999));
    rig.must(tunnels(&[v4, v6]));
    assert_eq!(rig.lease("red", "c").endpoint.receivers, [Receiver::Udp(v4), Receiver::Udp(v6)]);
    rig.check();
    let cases = [
        (
            tunnels(&[v4, tunnel(Family::V4, 1, 8286)]),
            "endpoint.receivers[1].udp.family: \"IPv4\" is that of another receiver of the kind udp; one per family",
        ),
        (
            tunnels(&[tunnel(Family::V4, 2, 8285)]),
            "endpoint.receivers[0].udp.vni: \"2\" must be 1, the VNI of the network red",
        ),
        (
            acquire_at("red", "c", 1, Endpoint { receivers: vec![Receiver::Udp(v6)], ..endpoint(7) }),
            "endpoint.receivers[0].udp.family: \"IPv6\" needs an IPv6 underlay address in the endpoint",
        ),
        (
            at(with_vtep(7, 1).receivers),
            "endpoint.receivers[0].vxlan.mac: \"02:00:00:00:00:07\" is not taken: the backend of the network red is \
             not VXLAN",
        ),
        (
            at(vec![Receiver::Routed(RoutedReceiver { family: Family::V4, mtu: 0 })]),
            "endpoint.receivers[0].routed.family: \"IPv4\" is not taken: nothing is routed directly in the network red",
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(rig.refused(command).to_string(), expected);
    }
}

#[test]
fn a_pool_and_the_hosts_underlay_are_apart() {
    let reaching = |prefix: &str| {
        let mut command = acquire("blue", "c", 1);
        let Command::AcquireLease { underlay, .. } = &mut command else { panic!() };
        underlay.extend(["192.0.2.0/24", prefix].map(|prefix| prefix.parse::<IpNet>().unwrap()));
        command
    };
    let told_of = |prefix| {
        format!(
            "underlay_prefixes[1]: the pool 10.1.0.0/22 of networks/blue overlaps the underlay prefix {prefix} of \
             nodes/c; traffic to the underlay would go into the tunnel"
        )
    };
    for prefix in ["10.0.0.0/8", "10.1.2.0/24", "10.1.3.9/32"] {
        assert_eq!(told(reaching(prefix)), told_of(prefix));
    }
    let mut rig = rig();
    rig.must(reaching("10.9.4.0/24"));
    let told = "network.pools[0].cidr: the pool 10.9.0.0/16 of networks/red overlaps the underlay prefix \
                10.9.4.0/24 of nodes/c; traffic to the underlay would go into the tunnel";
    assert_eq!(rig.refused(create(|_| ())).to_string(), told);
    let mut pools = rig.ledger.network(&"blue".parse().unwrap()).unwrap().pools.clone();
    pools.push(pool("10.9.4.0/22"));
    let update = |pools| {
        update_network("blue", NetworkChange { pools: Some(pools), ..NetworkChange::default() }, None)
    };
    assert!(rig.refused(update(pools)).to_string().contains("underlay prefix 10.9.4.0/24 of nodes/c"));
}

#[test]
fn an_alloc_network_takes_no_receiver() {
    let mut rig = Rig::new();
    rig.must(create(|spec| spec.backend = Backend::Alloc));
    assert_eq!(
        rig.refused(acquire_at("red", "a", 1, with_vtep(1, 1))).to_string(),
        "endpoint.receivers[0].vxlan.mac: \"02:00:00:00:00:01\" is not taken: the backend of the network red is not VXLAN"
    );
    rig.must(acquire("red", "a", 1));
}

#[test]
fn who_has_not_heard_yet_that_nothing_is_routed_directly_is_not_refused() {
    let mut rig = rig();
    let mut endpoint = with_vtep(3, 1);
    endpoint.receivers.push(Receiver::Routed(RoutedReceiver { family: Family::V4, mtu: 0 }));
    rig.must(acquire_at("blue", "c", 1, endpoint.clone()));
    rig.must(create(|spec| spec.backend = Backend::Alloc));
    endpoint.receivers.remove(0);
    let told = rig.refused(acquire_at("red", "c", 1, endpoint)).to_string();
    assert!(told.contains("is not taken: nothing is routed directly in the network red"), "{told}");
}

#[test]
fn loopback_is_an_underlay_when_it_is_allowed() {
    let mut rig = rig();
    rig.defaults.allow_loopback = true;
    rig.must(acquire_at("blue", "c", 1, Endpoint { v4: Some([127, 0, 0, 9].into()), ..endpoint(1) }));
}

#[test]
fn bad_claims_and_reservations_are_refused_by_name() {
    let held = rig().subnets("blue", "b");
    let active = rig().subnets("blue", "a");
    let cases: Vec<(Command, String)> = vec![
        (claim("red", "c", 1, "10.1.1.0/24"), "networks/red does not exist".into()),
        (
            claim("blue", "c", 1, "8.8.8.0/24"),
            "claim[0]: \"8.8.8.0/24\" is not a subnet of a pool of blue: 10.1.0.0/22 in /24".into(),
        ),
        (
            claim("blue", "c", 1, "10.1.0.0/23"),
            "claim[0]: \"10.1.0.0/23\" is not a subnet of a pool of blue: 10.1.0.0/22 in /24".into(),
        ),
        (
            claim("blue", "c", 1, "10.1.0.0/24"),
            "claim[0]: \"10.1.0.0/24\" is the first subnet of the pool 10.1.0.0/22, which is never given out"
                .into(),
        ),
        (reserve("red", "c", "10.1.1.0/24"), "networks/red does not exist".into()),
        (
            reserve("blue", "c", "0.0.0.0/1"),
            "reservation.subnets[0]: \"0.0.0.0/1\" is not a subnet of a pool of blue: 10.1.0.0/22 in /24"
                .into(),
        ),
        (
            reserve("blue", "c", &active),
            format!("reservation.subnets[0]: \"{active}\" is in use by networks/blue/leases/a"),
        ),
        (
            reserve("blue", "c", &held),
            format!("reservation.subnets[0]: \"{held}\" is held for networks/blue/leases/b"),
        ),
        (
            Command::DeleteReservation { name: name("blue", "c") },
            "networks/blue/reservations/c does not exist".into(),
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(told(command), expected);
    }
    let mut rig = rig();
    rig.must(release("blue", "a"));
    rig.pass(60);
    assert_eq!(
        rig.refused(reserve("blue", "c", &active)).to_string(),
        format!(
            "reservation.subnets[0]: \"{active}\" was given back by networks/blue/leases/a and cools down, free in 59m"
        )
    );
    rig.must(reserve("blue", "a", &active));
    assert_eq!(
        rig.refused(reserve("blue", "a", &active)).to_string(),
        "networks/blue/reservations/a exists already"
    );
    assert_eq!(
        rig.refused(reserve("blue", "c", &active)).to_string(),
        format!("reservation.subnets[0]: \"{active}\" is held for networks/blue/reservations/a")
    );
}
