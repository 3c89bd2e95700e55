//! The UDP tunnel between two hosts: real devices, real sockets, a real wire between them.

#![cfg(test)]

mod answers;
mod forged;
mod hosts;
mod live;
mod marks;
mod routed;
mod rungs;
#[allow(dead_code, reason = "each test program uses its own part")]
#[path = "../support/shelf.rs"]
mod shelf;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use loden_datapath::tunnel::counters::Loss;

use crate::hosts::{Hosts, NETWORKS, pod};

/// Bytes of one transfer: many super-packets.
const BYTES: usize = 16 << 20;
/// Packets that are moved at a time in a transfer at least, handshakes and acknowledgements counted.
const AT_A_TIME: u64 = 4;
const SERVICE: u16 = 5001;
const PATIENCE: Duration = Duration::from_secs(20);

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 31 % 251) as u8).collect()
}

/// One transfer to host 2 arrives as it was sent.
fn transfer(hosts: &Hosts, network: u8, v6: bool) {
    let to = (pod(network, 2, v6), SERVICE);
    let listener = hosts.on(2, move || TcpListener::bind(to).unwrap()).join().unwrap();
    let received = hosts.on(2, move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let sent = hosts.on(1, move || {
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE).unwrap();
        stream.write_all(&pattern()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    sent.join().unwrap();
    assert!(received.join().unwrap() == pattern(), "{BYTES} bytes did not arrive as they were sent");
}

#[test]
fn both_families_cross_a_wire_of_either() {
    for outer in [false, true] {
        let hosts = Hosts::over(outer);
        for (network, inner) in NETWORKS.into_iter().flat_map(|network| [(network, false), (network, true)]) {
            transfer(&hosts, network, inner);
        }
        for (number, network) in [(1, 5), (1, 6), (2, 5), (2, 6)] {
            let counters = hosts.counters(number, network);
            // The kernel's own multicast has no peer.
            let lost = Loss::ALL.into_iter().filter(|why| *why != Loss::NoPeer && counters.lost(*why) > 0);
            assert_eq!(lost.collect::<Vec<_>>(), [], "host {number}, IPv6 outside: {outer}");
        }
        let least = (2 * BYTES / 1400) as u64;
        for network in NETWORKS {
            let (from, to) = (hosts.counters(1, network), hosts.counters(2, network));
            assert!(from.sent() > least && to.received() > least);
            assert!(from.sent() > AT_A_TIME * from.sends(), "super-packets are cut before they are sent");
            assert!(to.received() > AT_A_TIME * to.writes(), "packets are not merged: {to:?}");
        }
    }
}

#[test]
fn what_a_wire_brings_one_by_one_is_merged() {
    let hosts = Hosts::over(false);
    let plain = ["-K", "eth0", "tx-udp-segmentation", "off", "gro", "off"];
    for number in [1, 2] {
        let done = hosts.on(number, move || Command::new("ethtool").args(plain).status().unwrap().success());
        assert!(done.join().unwrap(), "ethtool failed");
    }
    transfer(&hosts, 5, false);
    let to = hosts.counters(2, 5);
    // One by one they would be as many writes as packets.
    assert!(to.received() > 2 * to.writes(), "packets are not merged: {to:?}");
}
