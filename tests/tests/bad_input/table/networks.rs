//! Networks and their pools.

use std::time::Duration;

use loden_proto::convert::duration;
use loden_proto::reason::Reason;
use loden_proto::v1::{self, network::Backend};
use tonic::Code;

use super::{As, Bad, invalid, refused};
use crate::call::{Call, create, create_pool, create_port, create_udp, pool, reserve, update};

pub(super) fn all() -> Vec<Bad> {
    let mut all = pools();
    all.extend(networks());
    all.extend(tunnels());
    all.extend(existing_networks());
    all
}

fn pools() -> Vec<Bad> {
    let cidr = |text, says| invalid(As::Admin, create_pool(text, None), says);
    let length = |length, says| invalid(As::Admin, create_pool("10.50.0.0/16", Some(length)), says);
    let two = |first: &str, second: &str| {
        create(|network| network.pools = vec![pool(first, None), pool(second, None)])
    };
    vec![
        cidr(
            "10.50.0.1/16",
            &["network.pools[0].cidr", "\"10.50.0.1/16\"", "has host bits set", "10.50.0.0/16"],
        ),
        cidr("2001:db8::1/48", &["network.pools[0].cidr", "\"2001:db8::1/48\"", "has host bits set"]),
        cidr("10.50.0.0", &["network.pools[0].cidr", "\"10.50.0.0\"", "must be a CIDR"]),
        cidr("10.50.0.0/33", &["network.pools[0].cidr", "\"10.50.0.0/33\"", "must be a CIDR"]),
        cidr("", &["network.pools[0].cidr", "must be a CIDR"]),
        cidr("127.0.0.0/8", &["network.pools[0].cidr", "\"127.0.0.0/8\"", "not for hosts"]),
        cidr("224.0.0.0/8", &["network.pools[0].cidr", "\"224.0.0.0/8\"", "not for hosts"]),
        cidr("240.0.0.0/8", &["network.pools[0].cidr", "\"240.0.0.0/8\"", "not for hosts"]),
        cidr("169.254.0.0/16", &["network.pools[0].cidr", "\"169.254.0.0/16\"", "not for hosts"]),
        cidr("0.0.0.0/0", &["network.pools[0].cidr", "\"0.0.0.0/0\"", "not for hosts"]),
        cidr("128.0.0.0/1", &["network.pools[0].cidr", "\"128.0.0.0/1\"", "not for hosts"]),
        cidr("::/0", &["network.pools[0].cidr", "\"::/0\"", "not for hosts"]),
        cidr("fe80::/48", &["network.pools[0].cidr", "\"fe80::/48\"", "not for hosts"]),
        cidr("ff00::/16", &["network.pools[0].cidr", "\"ff00::/16\"", "not for hosts"]),
        cidr("10.50.0.0/29", &["network.pools[0].cidr", "\"10.50.0.0/29\"", "too small"]),
        cidr("2001:db8::/125", &["network.pools[0].cidr", "\"2001:db8::/125\"", "too small"]),
        length(16, &["network.pools[0].node_prefix_len", "\"16\"", "must be 18 to 30"]),
        length(17, &["network.pools[0].node_prefix_len", "\"17\"", "must be 18 to 30"]),
        length(31, &["network.pools[0].node_prefix_len", "\"31\"", "must be 18 to 30"]),
        length(300, &["network.pools[0].node_prefix_len", "\"300\"", "prefix length"]),
        invalid(
            As::Admin,
            two("10.50.0.0/16", "10.50.128.0/17"),
            &["network.pools[1].cidr", "\"10.50.128.0/17\"", "overlaps the pool 10.50.0.0/16"],
        ),
        invalid(
            As::Admin,
            two("10.50.0.0/16", "10.50.0.0/16"),
            &["network.pools[1].cidr", "\"10.50.0.0/16\"", "overlaps the pool 10.50.0.0/16"],
        ),
        refused(
            As::Admin,
            create_pool("10.244.128.0/17", None),
            Code::AlreadyExists,
            Reason::Taken,
            &["network.pools[0].cidr", "\"10.244.128.0/17\"", "10.244.0.0/16 of networks/default"],
        ),
        refused(
            As::Admin,
            create_pool("10.240.0.0/12", None),
            Code::AlreadyExists,
            Reason::Taken,
            &["network.pools[0].cidr", "\"10.240.0.0/12\"", "10.244.0.0/16 of networks/default"],
        ),
        // The underlay's own prefix: its traffic would go into the tunnel.
        refused(
            As::Admin,
            create_pool("192.0.2.0/24", None),
            Code::FailedPrecondition,
            Reason::OverlapsUnderlay,
            &["network.pools[0].cidr", "192.0.2.0/24", "underlay address 192.0.2.10 of nodes/a"],
        ),
    ]
}

fn networks() -> Vec<Bad> {
    let vni = |vni, says| invalid(As::Admin, create(|network| network.vni = Some(vni)), says);
    let port = |port, says| invalid(As::Admin, create_port(port), says);
    let mtu = |mtu, says| invalid(As::Admin, create(|network| network.mtu = Some(mtu)), says);
    let name = |name: &str, says| invalid(As::Admin, create(|network| network.name = name.into()), says);
    let ttl = |ttl, says| {
        let ttl = Some(duration(Duration::from_secs(ttl)));
        invalid(As::Admin, create(|network| network.lease_ttl = ttl), says)
    };
    let with_id = |id: &str| {
        let Call::CreateNetwork(request) = create(|_| ()) else { unreachable!("create makes no other") };
        Call::CreateNetwork(v1::CreateNetworkRequest { request_id: id.into(), ..request })
    };
    vec![
        vni(0, &["network.vni", "\"0\"", "1 to 16777215"]),
        vni(1 << 24, &["network.vni", "\"16777216\"", "1 to 16777215"]),
        vni(u32::MAX, &["network.vni", "\"4294967295\"", "1 to 16777215"]),
        refused(
            As::Admin,
            create(|network| network.vni = Some(100)),
            Code::AlreadyExists,
            Reason::Taken,
            &["network.vni", "\"100\"", "networks/default", "unique"],
        ),
        port(0, &["network.vxlan.port", "\"0\"", "1 to 65535"]),
        port(65_536, &["network.vxlan.port", "\"65536\"", "1 to 65535"]),
        // These were 22, 4464 and 8472 to flannel.
        port(65_558, &["network.vxlan.port", "\"65558\"", "1 to 65535"]),
        port(70_000, &["network.vxlan.port", "\"70000\"", "1 to 65535"]),
        port(u32::MAX, &["network.vxlan.port", "\"4294967295\"", "1 to 65535"]),
        mtu(0, &["network.mtu", "\"0\"", "576 to 65485"]),
        mtu(40, &["network.mtu", "\"40\"", "576 to 65485"]),
        mtu(575, &["network.mtu", "\"575\"", "576 to 65485"]),
        mtu(65_486, &["network.mtu", "\"65486\"", "576 to 65485"]),
        invalid(
            As::Admin,
            create(|network| {
                network.pools.push(pool("2001:db8::/48", None));
                network.mtu = Some(1279);
            }),
            &["network.mtu", "\"1279\"", "1280", "IPv6"],
        ),
        name("", &["network.name", "is required"]),
        name("new", &["network.name", "\"new\"", "networks/{network}"]),
        name("networks/new/x", &["network.name", "\"networks/new/x\"", "networks/{network}"]),
        name("networks/New", &["network.name", "\"New\"", "DNS label"]),
        name("networks/-new", &["network.name", "\"-new\"", "DNS label"]),
        name("networks/a.b", &["network.name", "\"a.b\"", "DNS label"]),
        name(
            // 64 characters.
            "networks/a123456789b123456789c123456789d123456789e123456789f123456789g123",
            &["network.name", "\"a123456789b123456789c", "1 to 63"],
        ),
        refused(
            As::Admin,
            create(|network| network.name = "networks/default".into()),
            Code::AlreadyExists,
            Reason::Taken,
            &["networks/default", "exists already"],
        ),
        ttl(0, &["network.lease_ttl", "\"0s\"", "10 seconds"]),
        ttl(9, &["network.lease_ttl", "\"9s\"", "10 seconds"]),
        ttl(366 * 24 * 3600, &["network.lease_ttl", "\"31622400s\"", "365 days"]),
        invalid(As::Admin, create(|network| network.pools.clear()), &["network.pools", "at least one pool"]),
        invalid(As::Admin, create(|network| network.backend = None), &["network.backend", "is required"]),
        invalid(
            As::Admin,
            create(|network| network.masquerade = Some(sparing("10.0.0.0"))),
            &["network.masquerade.except[0]", "\"10.0.0.0\"", "must be a CIDR"],
        ),
        invalid(As::Admin, Call::CreateNetwork(Default::default()), &["network", "is required"]),
        invalid(
            As::Admin,
            create(|network| {
                network.pools = (0..129).map(|index| pool(&format!("10.50.{index}.0/24"), None)).collect();
            }),
            &["network.pools", "\"129\"", "at most 128"],
        ),
        invalid(
            As::Admin,
            with_id("x23456789x123456789x123456789x123456789x123456789x123456789x1234x"),
            &["request_id", "\"x23456789x", "at most 64 characters"],
        ),
        invalid(As::Admin, with_id("used"), &["request_id", "\"used\"", "another request"]),
        refused(
            As::Admin,
            create(|network| {
                let backend = v1::VxlanBackend { port: Some(4789), ..Default::default() };
                network.backend = Some(Backend::Vxlan(backend));
            }),
            Code::FailedPrecondition,
            Reason::InUse,
            &["network.vxlan.gbp", "\"false\"", "must be true", "networks/policy", "4789"],
        ),
    ]
}

/// Of the backend UDP.
fn tunnels() -> Vec<Bad> {
    let port = |port| create_udp(v1::UdpBackend { port: Some(port), ..Default::default() });
    let limit = |path, device_offload| {
        update(path, |network| {
            let udp = v1::UdpBackend { device_offload, ..Default::default() };
            network.backend = Some(Backend::Udp(udp));
        })
    };
    let in_use = |call, says| refused(As::Admin, call, Code::FailedPrecondition, Reason::InUse, says);
    vec![
        invalid(As::Admin, port(0), &["network.udp.port", "\"0\"", "1 to 65535"]),
        invalid(As::Admin, port(70_000), &["network.udp.port", "\"70000\"", "1 to 65535"]),
        invalid(
            As::Admin,
            create_udp(v1::UdpBackend { device_offload: 4, ..Default::default() }),
            &["network.udp.device_offload", "\"4\"", "must be USO, TSO or PLAIN"],
        ),
        in_use(
            port(8472),
            &["network.udp.port", "\"8472\"", "networks/default", "vxlan", "networks/new", "udp"],
        ),
        in_use(
            create_port(8285),
            &["network.vxlan.port", "\"8285\"", "networks/tunnel", "udp", "networks/new"],
        ),
        invalid(As::Admin, limit("udp.port", 0), &["update_mask", "\"udp.port\"", "cannot be changed"]),
        invalid(As::Admin, limit("udp", 0), &["update_mask", "\"udp\"", "cannot be changed"]),
        invalid(
            As::Admin,
            limit("udp.device_offload", 9),
            &["network.udp.device_offload", "\"9\"", "must be USO, TSO or PLAIN"],
        ),
        invalid(
            As::Admin,
            limit("udp.single_sends", 0),
            &[
                "network.udp.single_sends",
                "\"false\"",
                "is for the backend udp alone",
                "vxlan, never changes",
            ],
        ),
        invalid(As::Admin, update("udp.single_receives", |_| ()), &["network.udp", "is required"]),
    ]
}

fn sparing(cidr: &str) -> v1::Masquerade {
    v1::Masquerade { except: vec![cidr.into()], random_fully: false }
}

fn existing_networks() -> Vec<Bad> {
    let nowhere = &["networks/nowhere", "does not exist"];
    let missing = |call| refused(As::Admin, call, Code::NotFound, Reason::NotFound, nowhere);
    vec![
        missing(Call::GetNetwork("networks/nowhere")),
        missing(Call::DeleteNetwork("networks/nowhere")),
        missing(update("mtu", |network| network.name = "networks/nowhere".into())),
        missing(reserve(|reservation| reservation.name = "networks/nowhere/reservations/b".into())),
        missing(Call::WatchPeers(v1::WatchPeersRequest {
            network: "networks/nowhere".into(),
            ..Default::default()
        })),
        missing(Call::ListLeases(v1::ListLeasesRequest {
            parent: "networks/nowhere".into(),
            ..Default::default()
        })),
        invalid(As::Admin, Call::GetNetwork("nowhere"), &["name", "\"nowhere\"", "networks/{network}"]),
        invalid(As::Admin, update("", |_| ()), &["update_mask", "is required"]),
        invalid(
            As::Admin,
            update("vni", |_| ()),
            &["update_mask", "\"vni\"", "pools, mtu, masquerade, vxlan.direct_routing, udp.device_offload,"],
        ),
        invalid(
            As::Admin,
            update("Pools", |_| ()),
            &[
                "update_mask",
                "\"Pools\"",
                "pools, mtu, masquerade, vxlan.direct_routing, udp.device_offload,",
            ],
        ),
        invalid(
            As::Admin,
            update("masquerade", |network| network.masquerade = Some(sparing("10.0.0.1/8"))),
            &["network.masquerade.except[0]", "\"10.0.0.1/8\"", "has host bits set", "10.0.0.0/8"],
        ),
        invalid(
            As::Admin,
            update("mtu", |network| network.mtu = Some(40)),
            &["network.mtu", "\"40\"", "576 to 65485"],
        ),
        invalid(
            As::Admin,
            update("pools", |network| network.pools = vec![pool("10.244.0.0/16", Some(25))]),
            &["network.pools[0].node_prefix_len", "\"25\"", "must stay 24"],
        ),
        invalid(As::Admin, update("pools", |_| ()), &["network.pools", "at least one pool"]),
        refused(
            As::Admin,
            update("pools", |network| network.pools = vec![pool("10.50.0.0/16", None)]),
            Code::FailedPrecondition,
            Reason::InUse,
            &["network.pools", "10.244.0.0/16", "in use"],
        ),
        refused(
            As::Admin,
            Call::DeleteNetwork("networks/default"),
            Code::FailedPrecondition,
            Reason::InUse,
            &["networks/default", "1 leases", "force"],
        ),
    ]
}
