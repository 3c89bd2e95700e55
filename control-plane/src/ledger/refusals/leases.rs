//! What is refused because of how leases stand.

use std::time::Duration;

use loden_proto::model::{Epoch, InstanceId};

use super::{rig, told};
use crate::ledger::testing::{
    Rig, acquire, acquire_at, claim, endpoint, name, network, release, renew, reserve, set_pools, with_vtep,
};
use crate::ledger::{Command, Refusal};

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
         instance 0000… of the same node is connected; were its disk or certificate copied?"
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
    // Who runs on: the same instance, or another one that knows what it holds.
    rig.must(acquire_at("blue", "a", 1, with_vtep(1, 1)));
    let held = rig.subnets("blue", "b");
    rig.must(claim("blue", "b", 2, &held));
    let free = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"]
        .into_iter()
        .find(|slot| *slot != rig.subnets("blue", "a") && *slot != rig.subnets("blue", "b"));
    rig.must(claim("blue", "c", 1, free.unwrap()));
}

/// A roll-back looks like any other start until an agent comes that knows better: the agent that has the subnet now
/// may be the last one to come.
#[test]
fn a_server_that_has_just_started_gives_nobody_what_only_its_own_memory_says() {
    let mut rig = rig();
    let (a, b) = (rig.subnets("blue", "a"), rig.subnets("blue", "b"));
    let mut slots = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"].into_iter();
    let free = slots.find(|slot| ![&a, &b].contains(&&(*slot).to_owned())).unwrap();
    rig.must(reserve("blue", "c", free));
    rig.must(release("blue", "b"));
    rig.settling = Some(Duration::from_secs(14));
    let refusal = Refusal::Settling { retry_after: Duration::from_secs(14) };
    // Reserved, leased to an instance that has gone, and given back.
    for (node, instance) in [("c", 1), ("a", 2), ("b", 1)] {
        assert_eq!(rig.refused(acquire("blue", node, instance)), refusal, "{node}");
    }
    // One that has moved since the copy was made.
    assert_eq!(rig.refused(claim("blue", "a", 1, free)), refusal);
    rig.must(claim("blue", "a", 2, &a));
    rig.must(claim("blue", "b", 2, &b));
    rig.settling = None;
    rig.must(acquire("blue", "c", 1));
    assert_eq!(rig.subnets("blue", "c"), free);
    rig.check();
}

/// A pool of another family came after the copy that is served was made, and comes again: who is back first has
/// no slot of it yet, and may not get one that somebody else holds.
#[test]
fn a_server_that_has_just_started_gives_no_slot_of_an_added_family_either() {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    for node in ["a", "b"] {
        rig.must(acquire("blue", node, 1));
    }
    rig.must(set_pools("blue", &["10.1.0.0/22", "2001:db8::/62 in /64"]));
    let (a, b) = (rig.subnets("blue", "a"), rig.subnets("blue", "b"));
    // Where a would be put by a server that does not wait.
    let mut unwary = Rig::new();
    unwary.must(network("blue", &["2001:db8::/62 in /64"]));
    unwary.must(acquire("blue", "a", 1));
    let slot = unwary.subnets("blue", "a");

    rig.settling = Some(Duration::from_secs(14));
    let refusal = rig.refused(acquire("blue", "a", 2));
    assert_eq!(refusal, Refusal::Settling { retry_after: Duration::from_secs(14) });
    // What it has is kept for it all the same.
    rig.must(renew("blue", "a"));
    assert_eq!(rig.subnets("blue", "a"), a);
    rig.must(claim("blue", "b", 1, &format!("{b}, {slot}")));
    rig.settling = None;
    rig.must(acquire("blue", "a", 2));
    assert_eq!(rig.subnets("blue", "b"), format!("{b}, {slot}"));
    assert!(rig.subnets("blue", "a").starts_with(&format!("{a}, 2001:db8:0:")));
    rig.check();
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
