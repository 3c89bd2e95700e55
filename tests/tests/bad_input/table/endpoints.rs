//! Where a node says that it receives.

use loden_proto::reason::Reason;
use loden_proto::v1;
use tonic::Code;

use super::{As, Bad, invalid, refused};
use crate::call::{acquire, acquire_at, acquire_udp, acquire_v4, acquire_v6, acquire_vtep};

pub(super) fn all() -> Vec<Bad> {
    let mut all = underlays();
    all.extend(prefixes());
    all.extend(vteps());
    all.extend(tunnels());
    all
}

fn underlays() -> Vec<Bad> {
    let v4 = |text, says| invalid(As::B, acquire_v4(text), says);
    let v6 = |text, says| invalid(As::B, acquire_v6(text), says);
    vec![
        v4("0.0.0.0", &["endpoint.address_v4", "\"0.0.0.0\"", "unspecified"]),
        v4("0.1.2.3", &["endpoint.address_v4", "\"0.1.2.3\"", "0.0.0.0/8"]),
        v4("224.0.0.1", &["endpoint.address_v4", "\"224.0.0.1\"", "multicast"]),
        v4("255.255.255.255", &["endpoint.address_v4", "\"255.255.255.255\"", "broadcast"]),
        v4("127.0.0.1", &["endpoint.address_v4", "\"127.0.0.1\"", "loopback", "does not allow"]),
        v4("127.9.9.9", &["endpoint.address_v4", "\"127.9.9.9\"", "loopback", "does not allow"]),
        v4("192.0.2", &["endpoint.address_v4", "\"192.0.2\"", "must be an IPv4 address"]),
        v4("2001:db8::1", &["endpoint.address_v4", "\"2001:db8::1\"", "must be an IPv4 address"]),
        v6("::", &["endpoint.address_v6", "\"::\"", "unspecified"]),
        v6("ff02::1", &["endpoint.address_v6", "\"ff02::1\"", "multicast"]),
        v6("::1", &["endpoint.address_v6", "\"::1\"", "loopback", "does not allow"]),
        v6("fe80::1", &["endpoint.address_v6", "\"fe80::1\"", "link-local"]),
        v6("192.0.2.1", &["endpoint.address_v6", "\"192.0.2.1\"", "must be an IPv6 address"]),
        invalid(As::B, acquire(|request| request.endpoint = None), &["endpoint", "is required"]),
        invalid(
            As::B,
            acquire(|request| request.endpoint = Some(v1::Endpoint::default())),
            &["endpoint.address_v4", "underlay address is required"],
        ),
        refused(
            As::B,
            acquire_v4("192.0.2.10"),
            Code::AlreadyExists,
            Reason::Taken,
            &["endpoint.address_v4", "\"192.0.2.10\"", "networks/default/leases/a", "unique"],
        ),
        // The pool lies over the joining host's own underlay.
        refused(
            As::B,
            acquire_v4("10.244.9.9"),
            Code::FailedPrecondition,
            Reason::OverlapsUnderlay,
            &["endpoint.address_v4", "10.244.0.0/16", "10.244.9.9", "nodes/b", "would go into the tunnel"],
        ),
        // Also when it is another network's pool.
        refused(
            As::B,
            acquire_v4("10.9.1.1"),
            Code::FailedPrecondition,
            Reason::OverlapsUnderlay,
            &["endpoint.address_v4", "10.9.0.0/22", "networks/small", "10.9.1.1"],
        ),
    ]
}

/// What a host reaches outside of the network.
fn prefixes() -> Vec<Bad> {
    let reaching = |prefix: &str| {
        let prefixes = vec!["192.0.2.0/24".into(), prefix.into()];
        acquire(|request| request.underlay_prefixes = prefixes)
    };
    let overlaps = |prefix, says| {
        refused(As::B, reaching(prefix), Code::FailedPrecondition, Reason::OverlapsUnderlay, says)
    };
    vec![
        overlaps(
            "10.244.8.0/24",
            &[
                "underlay_prefixes[1]",
                "10.244.0.0/16",
                "10.244.8.0/24",
                "nodes/b",
                "would go into the tunnel",
            ],
        ),
        overlaps("10.0.0.0/8", &["underlay_prefixes[1]", "networks/default", "underlay prefix 10.0.0.0/8"]),
        overlaps("10.244.9.9/32", &["underlay_prefixes[1]", "underlay prefix 10.244.9.9/32"]),
        invalid(
            As::B,
            reaching("192.0.2.1/24"),
            &["underlay_prefixes[1]", "\"192.0.2.1/24\"", "must be a prefix without host bits"],
        ),
        invalid(As::B, reaching("192.0.2"), &["underlay_prefixes[1]", "\"192.0.2\"", "must be a prefix"]),
        invalid(
            As::B,
            acquire(|request| request.underlay_prefixes = vec!["192.0.2.0/24".into(); 65]),
            &["underlay_prefixes", "\"65\"", "at most 64"],
        ),
    ]
}

fn vteps() -> Vec<Bad> {
    let mac = |mac: &str, says| invalid(As::B, acquire_vtep(|vtep| vtep.mac = mac.into()), says);
    let vni = |vni, says| invalid(As::B, acquire_vtep(|vtep| vtep.vni = vni), says);
    let port = |port, says| invalid(As::B, acquire_vtep(|vtep| vtep.port = port), says);
    vec![
        mac("01:00:5e:00:00:01", &["endpoint.receivers[0].vxlan.mac", "\"01:00:5e:00:00:01\"", "multicast"]),
        mac("ff:ff:ff:ff:ff:ff", &["endpoint.receivers[0].vxlan.mac", "\"ff:ff:ff:ff:ff:ff\"", "multicast"]),
        mac("00:00:00:00:00:00", &["endpoint.receivers[0].vxlan.mac", "\"00:00:00:00:00:00\"", "zero"]),
        mac("", &["endpoint.receivers[0].vxlan.mac", "must be a MAC address"]),
        mac("02:00:5e:10:00", &["endpoint.receivers[0].vxlan.mac", "\"02:00:5e:10:00\"", "must be a MAC"]),
        mac(
            "02-00-5e-10-00-01",
            &["endpoint.receivers[0].vxlan.mac", "\"02-00-5e-10-00-01\"", "must be a MAC"],
        ),
        refused(
            As::B,
            acquire_vtep(|vtep| vtep.mac = "02:00:5e:10:00:0a".into()),
            Code::AlreadyExists,
            Reason::Taken,
            &["endpoint.receivers[0].vxlan.mac", "\"02:00:5e:10:00:0a\"", "networks/default/leases/a"],
        ),
        vni(0, &["endpoint.receivers[0].vxlan.vni", "\"0\"", "1 to 16777215"]),
        vni(1 << 24, &["endpoint.receivers[0].vxlan.vni", "\"16777216\"", "1 to 16777215"]),
        vni(101, &["endpoint.receivers[0].vxlan.vni", "\"101\"", "must be 100"]),
        port(0, &["endpoint.receivers[0].vxlan.port", "\"0\"", "1 to 65535"]),
        port(65_536, &["endpoint.receivers[0].vxlan.port", "\"65536\"", "1 to 65535"]),
        port(4789, &["endpoint.receivers[0].vxlan.port", "\"4789\"", "must be 8472"]),
        invalid(
            As::B,
            acquire_vtep(|vtep| vtep.mtu = 0),
            &["endpoint.receivers[0].vxlan.mtu", "\"0\"", "68 to 65535"],
        ),
        invalid(
            As::B,
            acquire_vtep(|vtep| vtep.mtu = 65_536),
            &["endpoint.receivers[0].vxlan.mtu", "\"65536\"", "68 to 65535"],
        ),
        invalid(
            As::B,
            acquire_vtep(|vtep| vtep.gbp = true),
            &["endpoint.receivers[0].vxlan.gbp", "\"true\"", "must be false"],
        ),
        invalid(
            As::B,
            acquire_vtep(|vtep| vtep.family = 0),
            &["endpoint.receivers[0].vxlan.family", "must be IPv4 or IPv6"],
        ),
        invalid(
            As::B,
            acquire_vtep(|vtep| vtep.family = v1::AddressFamily::Ipv6.into()),
            &["endpoint.receivers[0].vxlan.family", "\"IPv6\"", "underlay address"],
        ),
        invalid(
            As::B,
            acquire_at(|endpoint| endpoint.receivers.push(routed(v1::AddressFamily::Unspecified))),
            &["endpoint.receivers[1].routed.family", "must be IPv4 or IPv6"],
        ),
        invalid(
            As::B,
            acquire(|request| {
                request.network = "networks/addresses".into();
                request.endpoint.get_or_insert_default().receivers = vec![routed(v1::AddressFamily::Ipv4)];
            }),
            &["endpoint.receivers[0].routed.family", "\"IPv4\"", "nothing is routed directly", "addresses"],
        ),
        invalid(
            As::B,
            acquire_at(|endpoint| endpoint.receivers.push(endpoint.receivers[0].clone())),
            &["endpoint.receivers[1].vxlan.family", "\"IPv4\"", "one per family"],
        ),
        invalid(
            As::B,
            acquire_at(|endpoint| endpoint.receivers[0].kind = None),
            &["endpoint.receivers[0].kind", "is required"],
        ),
        invalid(
            As::B,
            acquire_at(|endpoint| endpoint.receivers = vec![endpoint.receivers[0].clone(); 9]),
            &["endpoint.receivers", "\"9\"", "at most 8"],
        ),
        invalid(
            As::B,
            acquire(|request| request.network = "networks/addresses".into()),
            &["endpoint.receivers[0].vxlan.mac", "\"02:00:5e:10:00:0b\"", "addresses is not VXLAN"],
        ),
    ]
}

/// Of the backend UDP.
fn tunnels() -> Vec<Bad> {
    let with = |change: fn(&mut v1::UdpReceiver), says| invalid(As::B, acquire_udp(change), says);
    vec![
        with(|udp| udp.vni = 0, &["endpoint.receivers[0].udp.vni", "\"0\"", "1 to 16777215"]),
        with(|udp| udp.vni = 100, &["endpoint.receivers[0].udp.vni", "\"100\"", "must be 106"]),
        with(|udp| udp.port = 0, &["endpoint.receivers[0].udp.port", "\"0\"", "1 to 65535"]),
        with(|udp| udp.port = 65_536, &["endpoint.receivers[0].udp.port", "\"65536\"", "1 to 65535"]),
        with(|udp| udp.key = 0, &["endpoint.receivers[0].udp.key", "\"0\"", "never all 0"]),
        with(|udp| udp.mtu = 0, &["endpoint.receivers[0].udp.mtu", "\"0\"", "68 to 65535"]),
        with(|udp| udp.family = 0, &["endpoint.receivers[0].udp.family", "must be IPv4 or IPv6"]),
        with(
            |udp| udp.family = v1::AddressFamily::Ipv6.into(),
            &["endpoint.receivers[0].udp.family", "\"IPv6\"", "underlay address"],
        ),
        invalid(
            As::B,
            acquire(|request| request.network = "networks/tunnel".into()),
            &["endpoint.receivers[0].vxlan.mac", "tunnel is not VXLAN"],
        ),
    ]
}

fn routed(family: v1::AddressFamily) -> v1::Receiver {
    let routed = v1::RoutedReceiver { family: family.into(), mtu: None };
    v1::Receiver { kind: Some(v1::receiver::Kind::Routed(routed)) }
}
