//! Congestion marks on the wire: what a packet has goes outside with it, and what it gets on the way comes in with it.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};

use loden_datapath::tunnel::Header;
use loden_datapath::tunnel::counters::Loss;
use loden_datapath::tunnel::ecn::Ecn;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::SockRef;

use crate::hosts::{Hosts, NETWORKS, device, endpoint, key, pod, vni};
use crate::{PATIENCE, SERVICE};

/// A socket that sees marks.
struct Marked {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Marked {
    fn bind(hosts: &Hosts, number: u8, at: SocketAddr) -> Self {
        let socket = hosts.on(number, move || UdpSocket::bind(at).unwrap()).join().unwrap();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        // It makes it one that does not wait.
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, state }
    }

    fn set(&self, mark: Ecn, v6: bool) {
        let socket = SockRef::from(&self.socket);
        let done = if v6 { socket.set_tclass_v6(mark as u32) } else { socket.set_tos_v4(mark as u32) };
        done.unwrap();
    }

    /// The next datagram and its mark.
    fn receive(&self) -> (Vec<u8>, Ecn) {
        let mut buffer = [0; 2000];
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta).unwrap();
        let mark = meta[0].ecn.map_or(0, |mark| mark as u8);
        (buffer[..meta[0].len].to_vec(), Ecn::from_bits(mark))
    }
}

#[test]
fn marks_of_pods_are_on_the_wire() {
    for (outer, inner) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut hosts = Hosts::over(outer);
        hosts.turn(2, |engine| NETWORKS.into_iter().for_each(|network| engine.close(device(network))));
        let wire = Marked::bind(&hosts, 2, endpoint(2, outer));
        let sender = Marked::bind(&hosts, 1, (pod(5, 1, inner), SERVICE).into());
        for mark in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            sender.set(mark, inner);
            sender.socket.send_to(b"marked", (pod(5, 2, inner), SERVICE)).unwrap();
            // Probes of the way, and what the kernel itself sends to all, are not marked.
            let seen =
                std::iter::repeat_with(|| wire.receive()).find(|(bytes, _)| bytes.ends_with(b"marked"));
            assert_eq!(seen.unwrap().1, mark, "IPv6 outside {outer}, inside {inner}");
        }
    }
}

#[test]
fn marks_of_the_way_are_seen_by_pods() {
    let mut hosts = Hosts::over(false);
    let service = Marked::bind(&hosts, 2, (pod(5, 2, false), SERVICE).into());
    hosts.turn(1, |engine| NETWORKS.into_iter().for_each(|network| engine.close(device(network))));
    let peer = Marked::bind(&hosts, 1, endpoint(1, false));
    let send = |outer: Ecn, inner: Ecn| {
        let mut bytes = Header { vni: vni(5), key: key(5, 2), partial: false }.encode().to_vec();
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4([10, 5, 1, 1], [10, 5, 2, 1], 64).udp(4000, SERVICE);
        builder.write(&mut packet, &[outer as u8, inner as u8]).unwrap();
        let mut ip = etherparse::Ipv4Header::from_slice(&packet).unwrap().0;
        ip.ecn = etherparse::IpEcn::try_new(inner as u8).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        packet[..20].copy_from_slice(&ip.to_bytes());
        bytes.extend(packet);
        peer.set(outer, false);
        peer.socket.send_to(&bytes, endpoint(2, false)).unwrap();
    };
    let all = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
    let mut dropped = 0;
    for (outer, inner) in all.into_iter().flat_map(|outer| all.map(|inner| (outer, inner))) {
        send(outer, inner);
        match inner.leave(outer) {
            Ok(mark) => assert_eq!(service.receive(), (vec![outer as u8, inner as u8], mark)),
            Err(_) => dropped += 1,
        }
    }
    assert_eq!(hosts.counters(2, 5).lost(Loss::Congested), dropped);
}
