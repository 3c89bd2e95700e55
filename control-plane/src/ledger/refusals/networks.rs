//! What is refused of networks.

use std::time::Duration;

use loden_proto::model::{Backend, Mtu, NetworkSpec, Vni};

use super::{create, rig, told, udp, vxlan};
use crate::ledger::testing::{Rig, name, network, pool, spec, subnets, update_network};
use crate::ledger::{Command, NetworkChange};

#[test]
fn bad_networks_are_refused_by_name() {
    let cases: Vec<(Command, &str)> = vec![
        (network("blue", &["10.9.0.0/16"]), "networks/blue exists already"),
        (create(|spec| spec.pools.clear()), "network.pools: at least one pool is required"),
        (
            create(|spec| spec.pools.push(pool("10.9.8.0/22"))),
            "network.pools[1].cidr: \"10.9.8.0/22\" overlaps the pool 10.9.0.0/16",
        ),
        (
            create(|spec| spec.pools = (0..129).map(|n| pool(&format!("10.{n}.0.0/16"))).collect()),
            "network.pools: \"129\" must be at most 128",
        ),
        (
            create(|spec| spec.pools = vec![pool("10.0.0.0/8")]),
            "network.pools[0].cidr: \"10.0.0.0/8\" overlaps the pool 10.1.0.0/22 of networks/blue; networks \
             share one routing table",
        ),
        (
            create(|spec| spec.pools = vec![pool("10.1.2.0/24 in /26")]),
            "network.pools[0].cidr: \"10.1.2.0/24\" overlaps the pool 10.1.0.0/22 of networks/blue; networks \
             share one routing table",
        ),
        (
            create(|spec| spec.pools = vec![pool("192.0.0.0/16")]),
            "network.pools[0].cidr: the pool 192.0.0.0/16 of networks/red overlaps the underlay address \
             192.0.2.1 of nodes/a; traffic to the underlay would go into the tunnel",
        ),
        (
            create(|spec| spec.vni = Vni::try_from(1).ok()),
            "network.vni: \"1\" belongs to networks/blue; it must be unique in the cluster",
        ),
        (
            create(|spec| {
                spec.pools = vec![pool("2001:db8::/48")];
                spec.mtu = Mtu::try_from(1200).ok();
            }),
            "network.mtu: \"1200\" must be at least 1280 bytes: a pool is IPv6",
        ),
        (
            create(|spec| spec.lease_ttl = Some(Duration::from_secs(9))),
            "network.lease_ttl: \"9s\" must be 10 seconds to 365 days",
        ),
        (
            create(|spec| spec.backend = vxlan(8472, true)),
            "network.vxlan.gbp: \"true\" must be false, as for networks/blue on the same UDP port 8472",
        ),
        (
            create(|spec| spec.backend = udp(8472)),
            "network.udp.port: \"8472\" is the UDP port of networks/blue, whose backend is vxlan; networks/red, \
             whose backend is udp, needs another one",
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(told(command), expected);
    }
    let mut rig = rig();
    rig.must(create(|spec| spec.backend = vxlan(8473, true)));
}

#[test]
fn udp_networks_share_a_port_with_each_other_alone() {
    let mut rig = rig();
    rig.must(create(|spec| spec.backend = udp(8285)));
    let with = |id: &str, pool, backend| {
        let spec = NetworkSpec { backend, ..spec(id, &[pool]) };
        Command::CreateNetwork { spec, request_id: None }
    };
    rig.must(with("green", "10.3.0.0/22", udp(8285)));
    assert_eq!(
        rig.refused(with("grey", "10.4.0.0/22", vxlan(8285, false))).to_string(),
        "network.vxlan.port: \"8285\" is the UDP port of networks/green, whose backend is udp; networks/grey, whose \
         backend is vxlan, needs another one"
    );
    for id in ["green", "red"] {
        rig.must(Command::DeleteNetwork { id: id.parse().unwrap(), force: false });
    }
    rig.must(with("grey", "10.4.0.0/22", vxlan(8285, false)));
}

#[test]
fn a_vni_that_cools_down_goes_only_to_its_network() {
    let mut rig = Rig::new();
    let with_vni = |id: &str| {
        let spec = NetworkSpec { vni: Vni::try_from(7).ok(), ..spec(id, &["10.2.0.0/22"]) };
        Command::CreateNetwork { spec, request_id: None }
    };
    rig.must(with_vni("gold"));
    rig.must(Command::DeleteNetwork { id: "gold".parse().unwrap(), force: false });
    rig.pass(60);
    assert_eq!(
        rig.refused(with_vni("red")).to_string(),
        "network.vni: \"7\" was given back by networks/gold and cools down, free in 59m"
    );
    rig.must(with_vni("gold"));
    rig.must(Command::DeleteNetwork { id: "gold".parse().unwrap(), force: false });
    rig.pass(3600);
    rig.must(with_vni("red"));
}

#[test]
fn vnis_come_from_the_ranges_and_end() {
    let vni = |raw| Vni::try_from(raw).unwrap();
    let mut rig = Rig::new();
    rig.defaults.vnis = vec![vni(9)..=vni(10), vni(5)..=vni(5)];
    for (id, pool, expected) in [("a", "10.1.0.0/22", 9), ("b", "10.2.0.0/22", 10), ("c", "10.3.0.0/22", 5)] {
        rig.must(network(id, &[pool]));
        assert_eq!(rig.ledger.network(&id.parse().unwrap()).unwrap().vni, vni(expected));
    }
    rig.must(Command::DeleteNetwork { id: "b".parse().unwrap(), force: false });
    let refusal = rig.refused(network("d", &["10.4.0.0/22"]));
    assert_eq!(refusal.to_string(), "no VNI is free in the configured ranges 9 to 10, 5 to 5");
    rig.pass(3600);
    rig.must(network("d", &["10.4.0.0/22"]));
    assert_eq!(rig.ledger.network(&"d".parse().unwrap()).unwrap().vni, vni(10));
    rig.check();
}

#[test]
fn bad_changes_of_networks_are_refused_by_name() {
    let update = |pools: &[&str], mtu| {
        let pools = Some(pools.iter().map(|text| pool(text)).collect());
        update_network("blue", NetworkChange { pools, mtu, ..NetworkChange::default() }, None)
    };
    let cases: Vec<(Command, &str)> = vec![
        (update_network("red", NetworkChange::default(), None), "networks/red does not exist"),
        (
            update_network("blue", NetworkChange::default(), Some(1)),
            "network.revision: \"1\" of networks/blue is not the current 2; read it again",
        ),
        (
            update(&["10.5.0.0/22"], None),
            "network.pools: \"10.1.0.0/22 in /24\" is in use and cannot be removed: 10.1.0.0/22 in /24 has 3 \
             usable subnets: 1 free, 1 leased, 1 held, 0 reserved, 0 cooling down",
        ),
        (
            update(&["10.1.0.0/22 in /26"], None),
            "network.pools[0].node_prefix_len: \"26\" must stay 24: the length of a pool's subnets never changes",
        ),
        (
            update(&["10.1.0.0/22", "2001:db8::/48"], Some(Mtu::try_from(1200).ok())),
            "network.mtu: \"1200\" must be at least 1280 bytes: a pool is IPv6",
        ),
        (
            update(&["10.1.0.0/22", "192.0.2.0/26 in /28"], None),
            "network.pools[1].cidr: the pool 192.0.2.0/26 of networks/blue overlaps the underlay address \
             192.0.2.1 of nodes/a; traffic to the underlay would go into the tunnel",
        ),
        (
            Command::DeleteNetwork { id: "blue".parse().unwrap(), force: false },
            "networks/blue has 2 leases and 0 reservations; release them or delete with force",
        ),
        (Command::DeleteNetwork { id: "red".parse().unwrap(), force: true }, "networks/red does not exist"),
    ];
    for (command, expected) in cases {
        assert_eq!(told(command), expected);
    }
}

#[test]
fn only_a_vxlan_network_is_told_how_it_routes() {
    let mut rig = Rig::new();
    rig.must(create(|spec| spec.backend = Backend::HostGw));
    let change = NetworkChange { direct_routing: Some(false), ..NetworkChange::default() };
    assert_eq!(
        rig.refused(update_network("red", change, None)).to_string(),
        "network.vxlan.direct_routing: \"false\" is for the backend vxlan alone, and the backend of this network, \
         host-gw, never changes"
    );
}

#[test]
fn a_request_id_is_remembered_for_ten_minutes() {
    let mut rig = Rig::new();
    let create = |pool: &str, request_id: &str| Command::CreateNetwork {
        spec: spec("blue", &[pool]),
        request_id: Some(request_id.to_owned()),
    };
    let first = rig.must(create("10.1.0.0/22", "one"));
    let again = rig.must(create("10.1.0.0/22", "one"));
    assert_eq!((again.changes.len(), again.want), (0, first.want));
    assert_eq!(
        rig.refused(create("10.2.0.0/22", "one")).to_string(),
        "request_id: \"one\" was used for another request within the last 10 minutes"
    );
    for text in ["", &"x".repeat(65)] {
        assert!(
            rig.refused(create("10.1.0.0/22", text)).to_string().contains("must have 1 to 64 characters")
        );
    }
    let reserve = |node: &str| Command::CreateReservation {
        name: name("blue", node),
        subnets: subnets("10.1.1.0/24"),
        request_id: Some("two".to_owned()),
    };
    rig.must(reserve("a"));
    assert!(rig.must(reserve("a")).changes.is_empty());
    rig.must(Command::DeleteReservation { name: name("blue", "a") });
    assert_eq!(rig.refused(reserve("a")).to_string(), "networks/blue/reservations/a does not exist");
    rig.pass(600);
    rig.must(reserve("a"));
    assert_eq!(rig.refused(create("10.1.0.0/22", "one")).to_string(), "networks/blue exists already");
    rig.pass(600);
    rig.must(Command::Tidy);
    assert!(rig.ledger.requests.is_empty() && rig.ledger.request_ends.is_empty());
    rig.check();
}
