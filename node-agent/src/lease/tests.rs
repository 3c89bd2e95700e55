//! What of a grant is taken, and what is lacking.

use loden_proto::model::{Pool, Subnets};

use super::*;
use crate::testing::network;

fn held(net: &str) -> Held {
    Held { subnets: Subnets::new([net.parse().unwrap()]).unwrap(), epoch: Epoch(1) }
}

fn granted(net: &str) -> Granted {
    Granted { held: held(net), network: network() }
}

#[test]
fn a_subnet_given_away_is_named_and_the_new_one_is_not_taken() {
    let ours = (held("10.244.1.0/24"), network());
    assert_eq!(lost_subnet(Some(&ours), &granted("10.244.1.0/24")), None);
    assert_eq!(lost_subnet(None, &granted("10.244.2.0/24")), None);
    let lost = lost_subnet(Some(&ours), &granted("10.244.2.0/24")).unwrap();
    assert!(lost.starts_with("SUBNET_TAKEN: this node holds 10.244.1.0/24"), "{lost}");
}

#[test]
fn a_subnet_of_another_family_is_taken_on_top_of_ours_and_not_in_its_place() {
    let both = |v4: &str| {
        let nets = [v4, "2001:db8:0:1::/64"].map(|net| net.parse().unwrap());
        let held = Held { subnets: Subnets::new(nets).unwrap(), epoch: Epoch(1) };
        let mut network = network();
        network.pools.push(Pool::new("2001:db8::/48".parse().unwrap(), None).unwrap());
        Granted { held, network }
    };
    let ours = (held("10.244.1.0/24"), network());
    assert_eq!(lost_subnet(Some(&ours), &both("10.244.1.0/24")), None);
    assert!(lost_subnet(Some(&ours), &both("10.244.2.0/24")).is_some());
    // In a network that has lost the other family's pool.
    let Granted { held: more, network } = both("10.244.1.0/24");
    assert_eq!(lost_subnet(Some(&(more, network.clone())), &granted("10.244.1.0/24")), None);
    assert!(lost_subnet(Some(&(more, network)), &granted("10.244.2.0/24")).is_some());
}

#[test]
fn a_family_is_lacking_where_there_is_a_pool_and_no_subnet_of_it() {
    let (mut network, held) = (network(), held("10.244.1.0/24"));
    assert!(!lacks_a_family(&held, &network));
    network.pools.push(Pool::new("10.9.0.0/16".parse().unwrap(), None).unwrap());
    assert!(!lacks_a_family(&held, &network));
    network.pools.push(Pool::new("2001:db8::/48".parse().unwrap(), None).unwrap());
    assert!(lacks_a_family(&held, &network));
}

#[test]
fn a_subnet_of_pools_that_are_gone_is_given_up() {
    let mut new = granted("10.9.2.0/24");
    new.network.pools = vec![Pool::new("10.9.0.0/16".parse().unwrap(), None).unwrap()];
    assert_eq!(lost_subnet(Some(&(held("10.244.1.0/24"), network())), &new), None);
}

#[test]
fn what_is_said_of_collecting_leases_is_not_believed_for_long() {
    let says = |reason, seconds| {
        reason::status_retry(Code::Unavailable, reason, "wait", Duration::from_secs(seconds))
    };
    let waits = |reason, seconds| wait(&Timing::default(), 0, &says(reason, seconds)).as_secs_f64();
    for (reason, told, least, most) in [
        (Reason::Adopting, 540, 15.0, 18.75),
        (Reason::Adopting, 4, 4.0, 5.0),
        (Reason::Settling, 540, 540.0, 675.0),
    ] {
        let waited = waits(reason, told);
        assert!((least..=most).contains(&waited), "{waited} s of {told} s for {reason:?}");
    }
    assert_eq!(hint(&Status::unavailable("away")), None);
}
