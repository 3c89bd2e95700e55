//! The UDP tunnel between two hosts: real devices, real sockets, a real wire between them.

#![cfg(test)]

mod hosts;

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use loden_datapath::tunnel::Header;
use loden_datapath::tunnel::counters::Loss;
use loden_proto::model::{Key, Vni};

use crate::hosts::{Hosts, endpoint, key, pod, vni};

/// Bytes of one transfer: many super-packets.
const BYTES: usize = 16 << 20;
const SERVICE: u16 = 5001;
const PATIENCE: Duration = Duration::from_secs(20);

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 31 % 251) as u8).collect()
}

/// One transfer to host 2 arrives as it was sent.
fn transfer(hosts: &Hosts, v6: bool) {
    let listener = hosts.on(2, move || TcpListener::bind((pod(2, v6), SERVICE)).unwrap()).join().unwrap();
    let received = hosts.on(2, move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let sent = hosts.on(1, move || {
        let mut stream = TcpStream::connect_timeout(&(pod(2, v6), SERVICE).into(), PATIENCE).unwrap();
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
        for inner in [false, true] {
            transfer(&hosts, inner);
        }
        for number in [1, 2] {
            let counters = &hosts.host(number).counters;
            // The kernel's own multicast has no peer.
            let lost = Loss::ALL.into_iter().filter(|why| *why != Loss::NoPeer && counters.lost(*why) > 0);
            assert_eq!(lost.collect::<Vec<_>>(), [], "host {number}, IPv6 outside: {outer}");
        }
        let least = (2 * BYTES / 1400) as u64;
        assert!(hosts.host(1).counters.sent() > least && hosts.host(2).counters.received() > least);
    }
}

/// What is wrong with a datagram, and where it is counted.
struct Forged {
    why: Loss,
    /// Sent from the peer's own port, or from another one of its host.
    from_port: bool,
    bytes: Vec<u8>,
}

/// A UDP packet of a pod to the service of host 2's pod, behind a header.
fn datagram(vni: Vni, key: Key, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { vni, key, partial: false }.encode().to_vec();
    let builder = etherparse::PacketBuilder::ipv4(source, [10, 2, 0, 1], 64).udp(4000, SERVICE);
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

#[test]
fn nothing_forged_reaches_a_pod_and_each_is_counted_by_its_reason() {
    const POD: [u8; 4] = [10, 1, 0, 1];
    const FORGED: &[u8] = b"forged";
    let hosts = Hosts::over(false);
    let service = hosts.on(2, || UdpSocket::bind((pod(2, false), SERVICE)).unwrap()).join().unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let good = datagram(vni(), key(2), POD, FORGED);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let forged = [
        Forged { why: Loss::Sender, from_port: false, bytes: good.clone() },
        Forged { why: Loss::Key, from_port: true, bytes: datagram(vni(), key(7), POD, FORGED) },
        Forged { why: Loss::Key, from_port: true, bytes: with(&|bytes| bytes[4..12].fill(0)) },
        Forged { why: Loss::Key, from_port: true, bytes: datagram(vni(), key(1), POD, FORGED) },
        Forged { why: Loss::Network, from_port: true, bytes: datagram(Vni::MAX, key(2), POD, FORGED) },
        Forged { why: Loss::Source, from_port: true, bytes: datagram(vni(), key(2), [10, 2, 0, 9], FORGED) },
        Forged { why: Loss::Source, from_port: true, bytes: datagram(vni(), key(2), [192, 0, 2, 1], FORGED) },
        Forged { why: Loss::Unreadable, from_port: true, bytes: good[..7].to_vec() },
        Forged { why: Loss::Unreadable, from_port: true, bytes: with(&|bytes| bytes[0] = 0x20) },
        Forged { why: Loss::Malformed, from_port: true, bytes: good[..good.len() - 1].to_vec() },
        Forged { why: Loss::Malformed, from_port: true, bytes: with(&|bytes| bytes.push(0)) },
        Forged { why: Loss::Malformed, from_port: true, bytes: with(&|bytes| bytes[12] = 0x25) },
        Forged { why: Loss::Malformed, from_port: true, bytes: good[..12].to_vec() },
    ];
    let stranger = hosts.on(1, || UdpSocket::bind((endpoint(1, false).ip(), 0)).unwrap()).join().unwrap();
    for Forged { from_port, bytes, .. } in &forged {
        if *from_port {
            let to = endpoint(2, false).into();
            hosts.host(1).port.send(&to, &[IoSlice::new(bytes)], bytes.len()).unwrap();
        } else {
            stranger.send_to(bytes, endpoint(2, false)).unwrap();
        }
    }
    // What comes behind them on the same way is the first that arrives.
    let last = datagram(vni(), key(2), POD, b"good");
    hosts.host(1).port.send(&endpoint(2, false).into(), &[IoSlice::new(&last)], last.len()).unwrap();
    let mut buffer = [0; 100];
    let (length, _) = service.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"good");
    for why in Loss::ALL.into_iter().filter(|why| *why != Loss::NoPeer) {
        let expected = forged.iter().filter(|forged| forged.why == why).count();
        assert_eq!(hosts.host(2).counters.lost(why), expected as u64, "{}", why.name());
    }
}
