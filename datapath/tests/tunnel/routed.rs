//! Two hosts with a router between them whose far link is narrow: what a bridge would let pass proves nothing.

use std::process::Command;

use loden_datapath::tunnel::counters::Loss;

use crate::hosts::{Hosts, device, endpoint};
use crate::transfer;

/// Of the far link.
const NARROW: u32 = 1400;

/// Transfers of both families arrive, and no send is refused for another reason than its length.
fn cross(outer: bool, with_icmp: bool) {
    let hosts = Hosts::across_router(outer, NARROW);
    if !with_icmp {
        hosts.on_router(|| {
            let rules = "add table inet mute
                add chain inet mute out { type filter hook output priority 0; }
                add rule inet mute out ip protocol icmp drop
                add rule inet mute out icmpv6 type { destination-unreachable, packet-too-big } drop";
            let mut nft = Command::new("nft");
            assert!(nft.arg(rules).status().unwrap().success());
        });
    }
    for inner in [false, true] {
        transfer(&hosts, 5, inner);
    }
    for number in [1, 2] {
        let counters = hosts.counters(number, 5);
        assert_eq!(counters.lost(Loss::NotSent), 0, "host {number}");
    }
    let rungs = hosts.engines[0].rungs(device(5)).unwrap();
    assert_eq!(rungs.singly, [], "it was not for their being many");
    let [(peer, mtu)] = rungs.narrow[..] else { panic!("one way is narrow: {rungs:?}") };
    // Where nobody says it, it is searched for still.
    let least = if with_icmp { NARROW } else { 1200 };
    assert!(peer == endpoint(2, outer) && (least..=NARROW).contains(&mtu.into()), "{rungs:?}");
    let counters = hosts.counters(1, 5);
    println!(
        "IPv6 outside {outer}, ICMP {with_icmp}: sent {}, too big {}, told {}",
        counters.sent(),
        counters.lost(Loss::TooBig),
        counters.told()
    );
    assert!(counters.told() > 0, "the pod was never told that its packets are too long");
}

#[test]
fn a_transfer_crosses_a_narrow_link_over_ipv4() {
    cross(false, true);
}

#[test]
fn a_transfer_crosses_a_narrow_link_over_ipv6() {
    cross(true, true);
}

#[test]
fn a_transfer_crosses_a_narrow_link_over_ipv4_whose_router_says_nothing() {
    cross(false, false);
}

#[test]
fn a_transfer_crosses_a_narrow_link_over_ipv6_whose_router_says_nothing() {
    cross(true, false);
}
