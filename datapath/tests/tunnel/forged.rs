//! What is not from a peer, or not what a peer may send: counted by its reason, and seen by no pod.

use std::net::UdpSocket;

use loden_datapath::tunnel::Header;
use loden_datapath::tunnel::control::Control;
use loden_datapath::tunnel::counters::Loss;
use loden_proto::model::{Key, Vni};

use crate::hosts::{Hosts, NETWORKS, device, endpoint, key, pod, vni};
use crate::{PATIENCE, SERVICE};

/// What is wrong with a datagram, and where it is counted.
struct Forged {
    why: Loss,
    /// Sent from the peer's own port, or from another one of its host.
    from_port: bool,
    bytes: Vec<u8>,
}

const NONCE: u64 = 0x0102_0304;

/// A question about the way.
fn probe(network: u8, key: Key) -> Vec<u8> {
    Control::Probe(NONCE).encode(Header { vni: vni(network), key, partial: false }).to_vec()
}

/// A UDP packet to the service of host 2's pod in network 5, behind a header.
fn datagram(vni: Vni, key: Key, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { vni, key, partial: false }.encode().to_vec();
    let builder = etherparse::PacketBuilder::ipv4(source, [10, 5, 2, 1], 64).udp(4000, SERVICE);
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

#[test]
fn nothing_forged_reaches_a_pod_and_each_is_counted_by_its_reason() {
    const POD: [u8; 4] = [10, 5, 1, 1];
    const FORGED: &[u8] = b"forged";
    let mut hosts = Hosts::over(false);
    let service = hosts.on(2, || UdpSocket::bind((pod(5, 2, false), SERVICE)).unwrap()).join().unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let good = datagram(vni(5), key(5, 2), POD, FORGED);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let forged = [
        Forged { why: Loss::Sender, from_port: false, bytes: good.clone() },
        Forged {
            why: Loss::Key,
            from_port: true,
            bytes: datagram(vni(5), Key::try_from(7).unwrap(), POD, FORGED),
        },
        Forged { why: Loss::Key, from_port: true, bytes: datagram(vni(5), key(5, 1), POD, FORGED) },
        // Another network's key, and that network with what is of this one.
        Forged { why: Loss::Key, from_port: true, bytes: datagram(vni(5), key(6, 2), POD, FORGED) },
        Forged { why: Loss::Source, from_port: true, bytes: datagram(vni(6), key(6, 2), POD, FORGED) },
        Forged { why: Loss::Network, from_port: true, bytes: datagram(Vni::MAX, key(5, 2), POD, FORGED) },
        Forged {
            why: Loss::Source,
            from_port: true,
            bytes: datagram(vni(5), key(5, 2), [10, 5, 2, 9], FORGED),
        },
        Forged {
            why: Loss::Source,
            from_port: true,
            bytes: datagram(vni(5), key(5, 2), [192, 0, 2, 1], FORGED),
        },
        Forged { why: Loss::Unreadable, from_port: false, bytes: Vec::new() },
        Forged { why: Loss::Unreadable, from_port: true, bytes: good[..7].to_vec() },
        Forged { why: Loss::Unreadable, from_port: true, bytes: with(&|bytes| bytes[0] = 0x20) },
        Forged { why: Loss::Malformed, from_port: true, bytes: good[..good.len() - 1].to_vec() },
        Forged { why: Loss::Malformed, from_port: true, bytes: with(&|bytes| bytes.push(0)) },
        Forged { why: Loss::Malformed, from_port: true, bytes: with(&|bytes| bytes[12] = 0x25) },
        Forged { why: Loss::Malformed, from_port: true, bytes: good[..12].to_vec() },
        // Questions about the way, which a peer would be answered.
        Forged { why: Loss::Sender, from_port: false, bytes: probe(5, key(5, 2)) },
        Forged { why: Loss::Key, from_port: true, bytes: probe(5, key(6, 2)) },
        Forged { why: Loss::Network, from_port: true, bytes: probe(7, key(5, 2)) },
        Forged { why: Loss::Unreadable, from_port: true, bytes: probe(5, key(5, 2))[..20].to_vec() },
    ];
    // The peer's own port is free for whoever has its host.
    hosts.turn(1, |engine| NETWORKS.into_iter().for_each(|network| engine.close(device(network))));
    let bind = |port| hosts.on(1, move || UdpSocket::bind((endpoint(1, false).ip(), port)).unwrap()).join();
    let (peer, stranger) = (bind(endpoint(1, false).port()).unwrap(), bind(0).unwrap());
    for Forged { from_port, bytes, .. } in &forged {
        let socket = if *from_port { &peer } else { &stranger };
        socket.send_to(bytes, endpoint(2, false)).unwrap();
    }
    // What comes behind them on the same way is the first that arrives.
    peer.send_to(&datagram(vni(5), key(5, 2), POD, b"good"), endpoint(2, false)).unwrap();
    let mut buffer = [0; 100];
    let (length, _) = service.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"good");
    // The first answer of all is to the peer.
    peer.send_to(&probe(5, key(5, 2)), endpoint(2, false)).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    let answer = Control::Answer(NONCE).encode(Header { vni: vni(5), key: key(5, 1), partial: false });
    assert_eq!((&buffer[..length], from), (&answer[..], endpoint(2, false)));
    for socket in [&peer, &stranger] {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut buffer).is_err(), "a stranger is answered");
    }
    for why in Loss::ALL.into_iter().filter(|why| *why != Loss::NoPeer) {
        let expected = forged.iter().filter(|forged| forged.why == why).count();
        let counted = [hosts.counters(2, 5), hosts.counters(2, 6), hosts.strays(2)].map(|of| of.lost(why));
        assert_eq!(counted.iter().sum::<u64>(), expected as u64, "{}", why.name());
    }
}
