//! Plans as text: what a change does to the kernel, and in which order.
//!
//! `LODEN_UPDATE_GOLDEN=1` writes the files anew; then look at the difference.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::fs;
use std::path::Path;

use loden_datapath::backend::{self, Me};
use loden_datapath::{Plan, Tables, plan};
use loden_proto::model::{Backend, Family, Network, Peer, Port, Receiver, VxlanBackend};
use support::{dual_underlay, key, me, network, network_v4, peer, receiver, udp, udp_peer, vtep};

fn tables(network: &Network, me: &Me, peers: &[Peer]) -> Tables {
    let (tables, refused) = backend::tables(network, me, peers);
    assert!(refused.is_empty(), "{refused:?}");
    tables
}

fn check(name: &str, plan: &Plan) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(name).with_extension("plan");
    let text: String = plan.steps().iter().map(|step| format!("{step}\n")).collect();
    if std::env::var_os("LODEN_UPDATE_GOLDEN").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, golden, "{} differs; LODEN_UPDATE_GOLDEN=1 writes it anew", file.display());
}

#[test]
fn a_host_joins() {
    let network = network();
    let all = tables(&network, &me(&network), &[peer(&network, 2), peer(&network, 3)]);
    check("a_host_joins", &plan(&Tables::default(), &all));
}

#[test]
fn a_host_with_both_underlays_joins() {
    let network = network();
    let me = dual_underlay(me(&network));
    let mut over_v6 = peer(&network, 3);
    let vtep = vtep(&over_v6);
    over_v6.endpoint.v6 = Some("2001:db8:ffff::3".parse().unwrap());
    over_v6.endpoint.v4 = None;
    over_v6.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V6, vtep.mac))];
    check(
        "a_host_with_both_underlays_joins",
        &plan(&Tables::default(), &tables(&network, &me, &[peer(&network, 2), over_v6])),
    );
}

#[test]
fn a_host_joins_over_udp() {
    let (network, me) = udp();
    let all = tables(&network, &me, &[udp_peer(&network, 2), udp_peer(&network, 3)]);
    check("a_host_joins_over_udp", &plan(&Tables::default(), &all));
}

#[test]
fn a_udp_peer_that_moved_and_one_that_has_a_new_key() {
    let (network, me) = udp();
    let mut peers = [udp_peer(&network, 2), udp_peer(&network, 3)];
    let before = tables(&network, &me, &peers);
    peers[0].endpoint.v4 = Some("192.0.2.22".parse().unwrap());
    let Receiver::Udp(receiver) = &mut peers[1].endpoint.receivers[0] else {
        unreachable!("it is a tunnel's")
    };
    receiver.key = key(77);
    check("a_udp_peer_that_moved", &plan(&before, &tables(&network, &me, &peers)));
}

#[test]
fn a_peer_comes_and_another_leaves() {
    let network = network();
    let me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    let after = tables(&network, &me, &[peer(&network, 3)]);
    check("a_peer_comes_and_another_leaves", &plan(&before, &after));
}

#[test]
fn a_peer_that_moved_is_replaced_not_removed() {
    let network = network();
    let me = me(&network);
    let mut moved = peer(&network, 2);
    moved.endpoint.v4 = Some("192.0.2.99".parse().unwrap());
    let before = tables(&network, &me, &[peer(&network, 2)]);
    check("a_peer_that_moved", &plan(&before, &tables(&network, &me, &[moved])));
}

#[test]
fn a_peer_with_a_new_mac_leaves_no_old_entry() {
    let network = network();
    let me = me(&network);
    let mut changed = peer(&network, 2);
    let mac = [2, 0, 0, 0, 0, 9].try_into().unwrap();
    changed.endpoint.receivers = vec![Receiver::Vxlan(receiver(&network, Family::V4, mac))];
    let before = tables(&network, &me, &[peer(&network, 2)]);
    check("a_peer_with_a_new_mac", &plan(&before, &tables(&network, &me, &[changed])));
}

#[test]
fn a_peer_on_another_port_has_it_in_its_entry() {
    let network = network_v4();
    let me = me(&network);
    let mut other = peer(&network, 2);
    let mut vtep = vtep(&other);
    vtep.port = Port::try_from(4789).unwrap();
    other.endpoint.receivers = vec![Receiver::Vxlan(vtep)];
    let before = tables(&network, &me, &[peer(&network, 2)]);
    check("a_peer_on_another_port", &plan(&before, &tables(&network, &me, &[other])));
}

#[test]
fn two_peers_change_subnets() {
    let network = network_v4();
    let me = me(&network);
    let (mut a, mut b) = (peer(&network, 2), peer(&network, 3));
    let before = tables(&network, &me, &[a.clone(), b.clone()]);
    std::mem::swap(&mut a.subnets, &mut b.subnets);
    check("two_peers_change_subnets", &plan(&before, &tables(&network, &me, &[a, b])));
}

#[test]
fn the_address_below_changes() {
    let network = network_v4();
    let mut me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    me.underlay.v4 = Some("192.0.2.200".parse().unwrap());
    me.underlay.lower = "eth1".parse().unwrap();
    check("the_address_below_changes", &plan(&before, &tables(&network, &me, &[peer(&network, 2)])));
}

#[test]
fn the_own_subnet_changes() {
    let network = network_v4();
    let mut me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    me.subnets = support::subnets(9, false);
    check("the_own_subnet_changes", &plan(&before, &tables(&network, &me, &[peer(&network, 2)])));
}

#[test]
fn a_new_mac_of_our_own_sets_the_neighbours_again() {
    let network = network();
    let mut me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    me.mac = [2, 0, 0, 0, 0, 1].try_into().unwrap();
    check("a_new_mac_of_our_own", &plan(&before, &tables(&network, &me, &[peer(&network, 2)])));
}

#[test]
fn a_new_port_makes_the_device_again() {
    let mut network = network_v4();
    let me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    let port = Port::try_from(4789).unwrap();
    network.backend = Backend::Vxlan(VxlanBackend { port, ..VxlanBackend::default() });
    check("a_new_port", &plan(&before, &tables(&network, &me, &[peer(&network, 2)])));
}

#[test]
fn an_empty_first_snapshot_sweeps_the_peers_only() {
    let network = network();
    let me = me(&network);
    let before = tables(&network, &me, &[peer(&network, 2)]);
    check("an_empty_first_snapshot", &plan(&before, &tables(&network, &me, &[])));
}
