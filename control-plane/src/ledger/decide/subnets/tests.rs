//! Slots that are free, kept, claimed, reserved and stolen.

use loden_proto::model::Endpoint;

use crate::ledger::testing::{
    Rig, acquire, acquire_at, claim, endpoint, name, network, release, renew, reserve, set_pools,
};
use crate::ledger::{Command, LeaseState, Refusal};

fn small() -> Rig {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    rig
}

#[test]
fn a_node_gets_one_subnet_per_family_and_the_same_everywhere() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/16", "2001:db8::/48"]));
    rig.must(acquire("blue", "a", 1));
    assert_eq!(rig.subnets("blue", "a"), "10.1.101.0/24, 2001:db8:0:d391::/64");
    rig.check();
}

#[test]
fn a_node_that_returns_gets_its_subnet_after_expiry_and_after_release() {
    let mut rig = small();
    rig.must(acquire("blue", "a", 1));
    let slot = rig.subnets("blue", "a");
    rig.expire("blue", "a");
    assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
    rig.pass(30 * 24 * 3600);
    rig.must(acquire("blue", "a", 2));
    assert_eq!(rig.subnets("blue", "a"), slot);
    rig.must(release("blue", "a"));
    rig.must(acquire("blue", "b", 1));
    rig.must(acquire("blue", "c", 1));
    rig.must(acquire("blue", "a", 3));
    assert_eq!(rig.subnets("blue", "a"), slot);
    rig.check();
}

#[test]
fn a_released_subnet_cools_down_before_another_node_has_it() {
    let mut rig = small();
    for node in ["a", "b", "c"] {
        rig.must(acquire("blue", node, 1));
    }
    let slot = rig.subnets("blue", "b");
    rig.must(release("blue", "b"));
    rig.refused(acquire("blue", "d", 1));
    rig.refused(claim("blue", "d", 1, &slot));
    rig.pass(3599);
    rig.must(Command::Tidy);
    rig.refused(acquire("blue", "d", 1));
    rig.pass(1);
    rig.must(acquire("blue", "d", 1));
    assert_eq!(rig.subnets("blue", "d"), slot);
    rig.check();
}

#[test]
fn a_claim_is_granted_when_it_is_free_and_otherwise_ignored() {
    let mut rig = small();
    rig.must(claim("blue", "a", 1, "10.1.3.0/24"));
    assert_eq!(rig.subnets("blue", "a"), "10.1.3.0/24");
    rig.must(claim("blue", "b", 1, "10.1.3.0/24"));
    assert_ne!(rig.subnets("blue", "b"), "10.1.3.0/24");
    rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
    assert_eq!(rig.subnets("blue", "a"), "10.1.3.0/24", "a lease stays where it is");
    rig.check();
}

#[test]
fn only_when_nothing_is_free_the_longest_held_of_those_away_is_stolen() {
    let mut rig = small();
    for node in ["a", "b", "c"] {
        rig.must(acquire("blue", node, 1));
    }
    rig.pass(12 * 3600);
    rig.must(renew("blue", "a"));
    for node in ["b", "c", "a"] {
        rig.expire("blue", node);
        rig.pass(1);
    }
    rig.stream("blue", "b", 1);
    let stolen = rig.subnets("blue", "c");
    rig.must(acquire("blue", "d", 1));
    assert_eq!(rig.subnets("blue", "d"), stolen);
    assert_eq!(rig.ledger.lease(&name("blue", "c")), None);
    assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
    rig.check();
}

#[test]
fn what_else_a_stolen_lease_had_cools_down() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22", "2001:db8::/48"]));
    for node in ["a", "b", "c"] {
        rig.must(acquire("blue", node, 1));
    }
    let before = rig.lease("blue", "a").subnets;
    rig.expire("blue", "a");
    rig.must(acquire("blue", "d", 1));
    let after = rig.lease("blue", "d").subnets;
    assert_eq!(after.v4, before.v4);
    assert_ne!(after.v6, before.v6);
    let used = rig.ledger.capacity(&"blue".parse().unwrap()).unwrap();
    assert_eq!((used[0].cooling, used[1].cooling), (0, 1));
    rig.check();
}

#[test]
fn one_stolen_lease_serves_both_families() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22", "2001:db8::/62 in /64"]));
    for node in ["a", "b", "c"] {
        rig.must(acquire("blue", node, 1));
    }
    let before = rig.lease("blue", "a").subnets;
    rig.expire("blue", "a");
    rig.expire("blue", "b");
    rig.must(acquire("blue", "d", 1));
    assert_eq!(rig.lease("blue", "d").subnets, before);
    assert!(rig.ledger.lease(&name("blue", "b")).is_some());
    rig.check();
}

#[test]
fn a_reserved_subnet_goes_to_its_node_only_and_is_never_stolen() {
    let mut rig = small();
    rig.must(reserve("blue", "z", "10.1.2.0/24"));
    rig.must(acquire("blue", "a", 1));
    rig.must(acquire("blue", "b", 1));
    rig.refused(acquire("blue", "c", 1));
    rig.refused(claim("blue", "c", 1, "10.1.2.0/24"));
    rig.must(acquire("blue", "z", 1));
    let lease = rig.lease("blue", "z");
    assert_eq!(
        (lease.subnets.to_string().as_str(), lease.reserved, lease.expires),
        ("10.1.2.0/24", true, None)
    );
    rig.must(release("blue", "z"));
    rig.pass(30 * 24 * 3600);
    rig.refused(acquire("blue", "c", 1));
    rig.must(acquire("blue", "z", 2));
    assert_eq!(rig.subnets("blue", "z"), "10.1.2.0/24");
    rig.check();
}

#[test]
fn a_lease_moves_to_its_reservation_with_the_next_instance() {
    let mut rig = small();
    rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
    rig.must(reserve("blue", "a", "10.1.2.0/24"));
    rig.must(acquire("blue", "a", 1));
    assert_eq!(rig.subnets("blue", "a"), "10.1.1.0/24", "its containers run there");
    assert!(!rig.lease("blue", "a").reserved);
    rig.must(acquire("blue", "a", 2));
    assert_eq!(rig.subnets("blue", "a"), "10.1.2.0/24");
    let used = &rig.ledger.capacity(&"blue".parse().unwrap()).unwrap()[0];
    assert_eq!((used.leased, used.cooling, used.free), (1, 1, 1));
    rig.check();
}

#[test]
fn a_pool_of_a_new_family_reaches_a_lease_with_its_next_acquire() {
    let mut rig = small();
    rig.must(acquire("blue", "a", 1));
    let slot = rig.subnets("blue", "a");
    rig.must(set_pools("blue", &["10.1.0.0/22", "2001:db8::/48"]));
    let epoch = rig.lease("blue", "a").epoch;
    rig.must(acquire("blue", "a", 1));
    assert!(rig.subnets("blue", "a").starts_with(&format!("{slot}, 2001:db8:0:")));
    assert_eq!(rig.lease("blue", "a").epoch, epoch);
    rig.check();
}

#[test]
fn a_pool_fills_to_the_last_subnet() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.0.0.0/8 in /19"]));
    let acquire = |number: u32| {
        let address = u32::from(std::net::Ipv4Addr::new(172, 16, 0, 0)) + number;
        let endpoint = Endpoint { v4: Some(address.into()), ..endpoint(1) };
        acquire_at("blue", &format!("node-{number}"), 1, endpoint)
    };
    for number in 1..2048 {
        rig.must(acquire(number));
    }
    let used = &rig.ledger.capacity(&"blue".parse().unwrap()).unwrap()[0];
    assert_eq!((used.slots, used.free, used.leased), (2048, 0, 2047));
    rig.refused(acquire(2048));
    rig.check();
}

/// The added pool has one slot that is free.
#[test]
fn a_node_that_starts_anew_goes_on_with_what_it_has_when_there_is_no_more() {
    let mut rig = small();
    rig.must(acquire("blue", "a", 1));
    rig.must(acquire("blue", "b", 1));
    let own = rig.subnets("blue", "b");
    rig.must(set_pools("blue", &["10.1.0.0/22", "2001:db8::/62 in /64"]));
    rig.must(reserve("blue", "x", "2001:db8:0:1::/64"));
    rig.must(reserve("blue", "y", "2001:db8:0:2::/64"));
    rig.must(acquire("blue", "a", 1));
    rig.must(acquire("blue", "b", 1));
    assert_eq!(rig.subnets("blue", "b"), own);
    rig.stream("blue", "b", 1);
    assert!(matches!(rig.refused(acquire("blue", "b", 1)), Refusal::Exhausted { .. }), "it is told");
    assert!(
        matches!(rig.refused(acquire("blue", "c", 1)), Refusal::Exhausted { .. }),
        "new ones get nothing"
    );
    rig.check();
}
