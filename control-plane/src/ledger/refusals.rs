//! Every refusal, with the words in which it is told.

use std::time::Duration;

use loden_proto::model::{
    Backend, Endpoint, Epoch, InstanceId, Mtu, NetworkSpec, Port, Receiver, Vni, VxlanBackend,
};

use super::testing::{
    Rig, acquire, acquire_at, claim, endpoint, name, network, pool, release, renew, reserve, spec, with_vtep,
};
use super::{Command, Refusal};

/// `blue` 10.1.0.0/22 with VNI 1 and leases of a (active), b (held); `gold`, deleted, had VNI 2.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    rig.must(network("gold", &["10.2.0.0/22"]));
    rig.must(Command::DeleteNetwork { id: "gold".parse().unwrap(), force: false });
    rig.must(acquire_at("blue", "a", 1, with_vtep(1, 1)));
    rig.must(acquire_at("blue", "b", 1, with_vtep(2, 1)));
    rig.expire("blue", "b");
    rig
}

fn create(change: impl FnOnce(&mut NetworkSpec)) -> Command {
    let mut spec = spec("red", &["10.9.0.0/16"]);
    change(&mut spec);
    Command::CreateNetwork { spec, request_id: None }
}

fn told(command: Command) -> String {
    let mut rig = rig();
    rig.pass(60);
    rig.refused(command).to_string()
}

fn vxlan(port: u32, gbp: bool) -> Backend {
    Backend::Vxlan(VxlanBackend { port: Port::try_from(port).unwrap(), learning: false, gbp })
}

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
    ];
    for (command, expected) in cases {
        assert_eq!(told(command), expected);
    }
    let mut rig = rig();
    rig.must(create(|spec| spec.backend = vxlan(8473, true)));
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
    let update = |pools: &[&str], mtu| Command::UpdateNetwork {
        id: "blue".parse().unwrap(),
        pools: Some(pools.iter().map(|text| pool(text)).collect()),
        mtu,
    };
    let cases: Vec<(Command, &str)> = vec![
        (
            Command::UpdateNetwork { id: "red".parse().unwrap(), pools: None, mtu: None },
            "networks/red does not exist",
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
fn bad_endpoints_are_refused_by_name() {
    let at = |change: fn(&mut Endpoint)| {
        let mut endpoint = with_vtep(3, 1);
        change(&mut endpoint);
        acquire_at("blue", "c", 1, endpoint)
    };
    fn vtep(endpoint: &mut Endpoint) -> &mut loden_proto::model::VxlanReceiver {
        let Receiver::Vxlan(vtep) = &mut endpoint.receivers[0];
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
            at(|endpoint| vtep(endpoint).family = loden_proto::model::Family::V6),
            "endpoint.receivers[0].vxlan.family: \"IPv6\" needs an IPv6 underlay address in the endpoint",
        ),
    ];
    for (command, expected) in cases {
        let Command::AcquireLease { name, endpoint, .. } = &command else { panic!() };
        let mut rig = rig();
        let epoch = rig.must(acquire("blue", "c", 1)).want;
        assert_eq!(epoch, super::Want::Lease(name.clone()));
        let update = Command::UpdateEndpoint {
            name: name.clone(),
            epoch: rig.lease("blue", "c").epoch,
            endpoint: endpoint.clone(),
        };
        assert_eq!(rig.refused(update).to_string(), expected, "by UpdateEndpoint");
        assert_eq!(told(command), expected, "by AcquireLease");
    }
}

#[test]
fn an_alloc_network_takes_no_receiver() {
    let mut rig = Rig::new();
    rig.must(create(|spec| spec.backend = Backend::Alloc));
    assert_eq!(
        rig.refused(acquire_at("red", "a", 1, with_vtep(1, 1))).to_string(),
        "endpoint.receivers[0].vxlan.mac: \"02:00:00:00:00:01\" is not taken: the backend of the network red only allocates"
    );
    rig.must(acquire("red", "a", 1));
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

#[test]
fn what_is_not_there_is_named() {
    for command in [
        renew("blue", "c"),
        release("blue", "c"),
        renew("red", "a"),
        Command::ExpireLease { name: name("blue", "c"), revision: 1 },
    ] {
        assert!(told(command).ends_with("does not exist"));
    }
}

#[test]
fn another_epoch_than_the_current_one_is_stale() {
    let mut rig = rig();
    let epoch = rig.lease("blue", "a").epoch;
    for sent in [Epoch(epoch.0 - 1), Epoch(epoch.0 + 1)] {
        let expected = format!(
            "epoch: \"{sent}\" of networks/blue/leases/a is not the current {epoch}; acquire the lease again"
        );
        let name = name("blue", "a");
        let endpoint = endpoint(1);
        for command in [
            Command::RenewLease { name: name.clone(), epoch: Some(sent) },
            Command::ReleaseLease { name: name.clone(), epoch: Some(sent) },
            Command::UpdateEndpoint { name: name.clone(), epoch: sent, endpoint },
        ] {
            assert_eq!(rig.refused(command).to_string(), expected);
        }
    }
}

#[test]
fn a_second_instance_is_refused_while_the_first_streams() {
    let mut rig = rig();
    rig.stream("blue", "a", 1);
    let refusal = rig.refused(acquire("blue", "a", 2));
    assert_eq!(
        refusal.to_string(),
        "instance_id: \"00000000000000000000000000000002\" may not acquire networks/blue/leases/a while the \
         instance 00000000000000000000000000000001 of the same node is connected; were its disk or certificate copied?"
    );
    assert!(matches!(refusal, Refusal::AnotherInstance { instance: InstanceId(2), .. }));
    rig.streams.0.clear();
    rig.must(acquire("blue", "a", 2));
}

#[test]
fn an_exhausted_network_tells_what_its_subnets_are_used_for() {
    let mut rig = rig();
    rig.must(acquire("blue", "c", 1));
    rig.must(release("blue", "c"));
    rig.stream("blue", "b", 1);
    assert_eq!(
        rig.refused(acquire("blue", "d", 1)).to_string(),
        "networks/blue has no free IPv4 subnet left: 10.1.0.0/22 in /24 has 3 usable subnets: 0 free, 1 leased, \
         1 held, 0 reserved, 1 cooling down"
    );
}

#[test]
fn a_server_that_has_just_started_gives_nothing_new() {
    let mut rig = rig();
    rig.settling = Some(Duration::from_millis(14_200));
    assert_eq!(
        rig.refused(acquire("blue", "c", 1)).to_string(),
        "the server has just started and gives no new subnet for another 15s, until its agents are back"
    );
    rig.must(acquire_at("blue", "a", 2, with_vtep(1, 1)));
    rig.must(acquire_at("blue", "b", 2, with_vtep(2, 1)));
    let free = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"]
        .into_iter()
        .find(|slot| *slot != rig.subnets("blue", "a") && *slot != rig.subnets("blue", "b"));
    rig.must(claim("blue", "c", 1, free.unwrap()));
}

#[test]
fn a_lease_does_not_expire_before_its_time_or_after_a_change() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    rig.must(acquire("blue", "a", 1));
    let expire = |revision| Command::ExpireLease { name: name("blue", "a"), revision };
    let revision = rig.lease("blue", "a").revision;
    let not_due = |reason| format!("networks/blue/leases/a does not expire: {reason}");
    assert_eq!(rig.refused(expire(revision)).to_string(), not_due("its time has not passed"));
    assert_eq!(rig.refused(expire(revision - 1)).to_string(), not_due("it has changed since"));
    rig.pass(7 * 3600);
    rig.must(renew("blue", "a"));
    rig.pass(48 * 3600);
    assert_eq!(rig.refused(expire(revision)).to_string(), not_due("it has changed since"));
    rig.expire("blue", "a");
    let revision = rig.lease("blue", "a").revision;
    assert_eq!(rig.refused(expire(revision)).to_string(), not_due("it has expired already"));
    let slot = rig.subnets("blue", "a");
    rig.must(reserve("blue", "a", &slot));
    rig.must(acquire("blue", "a", 1));
    let revision = rig.lease("blue", "a").revision;
    assert_eq!(rig.refused(expire(revision)).to_string(), not_due("its subnets are reserved"));
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
        subnets: super::testing::subnets("10.1.1.0/24"),
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

#[test]
fn while_adopting_only_claims_are_served() {
    let mut rig = rig();
    let until = Some(rig.now + Duration::from_secs(600));
    rig.must(Command::BeginIncarnation { id: 2, predecessor: None, adopt_until: until });
    rig.pass(60);
    let told = |rig: &mut Rig, command| {
        let told = rig.refused(command).to_string();
        let (start, reason) = told.split_once("; ").unwrap();
        assert_eq!(start, "the leases held before the store was lost are being collected for another 9m");
        reason.to_owned()
    };
    let needed = "a claim to the subnets that the node holds is needed until then";
    assert_eq!(told(&mut rig, acquire("blue", "a", 1)), needed);
    let slot = rig.subnets("blue", "a");
    rig.must(claim("blue", "d", 1, &slot));
    assert_eq!(
        told(&mut rig, claim("blue", "a", 1, &slot)),
        format!("the claimed subnet {slot} has been confirmed by d")
    );
    let update = Command::UpdateEndpoint {
        name: name("blue", "b"),
        epoch: rig.lease("blue", "b").epoch,
        endpoint: endpoint(9),
    };
    assert_eq!(told(&mut rig, update), "the lease has to be acquired again with a claim");
    let slot = rig.subnets("blue", "b");
    rig.must(reserve("blue", "b", &slot));
    assert_eq!(
        told(&mut rig, claim("blue", "e", 1, &slot)),
        format!("the claimed subnet {slot} is reserved for b")
    );
    rig.check();
}
