//! Packets for tests: super-packets as a kernel would hand them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::checksum;
use super::inner::{Inner, Protocol};
use super::segment::{Cut, HEAD, Offload};

/// A packet with the pseudo-header's sum in place of its checksum.
#[derive(Clone, Debug)]
pub(super) struct Super {
    pub(super) packet: Vec<u8>,
    pub(super) offload: Offload,
}

impl Super {
    pub(super) fn inner(&self) -> Inner<'_> {
        Inner::parse(&self.packet).unwrap()
    }

    /// All packets that it is cut into.
    pub(super) fn cut(&self) -> Vec<Vec<u8>> {
        let cut = Cut::new(self.inner(), self.offload).unwrap();
        let mut head = [0; HEAD];
        let packets: Vec<_> = (0..)
            .map_while(|index| {
                let segment = cut.segment(index, &mut head)?;
                Some([&head[..segment.head], segment.payload].concat())
            })
            .collect();
        assert_eq!(packets.len(), cut.count());
        packets
    }
}

/// The headers of what is to be built.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) v6: bool,
    pub(super) protocol: Protocol,
    pub(super) flags: u8,
    pub(super) id: u16,
    pub(super) sequence: u32,
    pub(super) tos: u8,
    pub(super) options: usize,
}

impl Shape {
    pub(super) fn build(&self, payload: &[u8], size: usize) -> Super {
        let transport = match self.protocol {
            Protocol::Tcp => self.tcp(),
            Protocol::Udp => {
                let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
                vec![0x12, 0x34, 0x00, 0x35, length[0], length[1], 0, 0]
            }
        };
        let length = transport.len() + payload.len();
        let number = self.protocol.number();
        let (source, destination): (IpAddr, IpAddr) = if self.v6 {
            (
                Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
                Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9).into(),
            )
        } else {
            (Ipv4Addr::new(10, 1, 0, 2).into(), Ipv4Addr::new(10, 2, 0, 9).into())
        };
        let mut packet = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(20 + length).unwrap().to_be_bytes();
                let id = self.id.to_be_bytes();
                let mut ip =
                    vec![0x45, self.tos, total[0], total[1], id[0], id[1], 0x40, 0, 63, number, 0, 0];
                ip.extend(source.octets().into_iter().chain(destination.octets()));
                let sum = checksum::of(checksum::add(0, &ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let payload = u16::try_from(length).unwrap().to_be_bytes();
                let mut ip =
                    vec![0x60 | self.tos >> 4, self.tos << 4, 0xab, 0xcd, payload[0], payload[1], number, 63];
                ip.extend(source.octets().into_iter().chain(destination.octets()));
                ip
            }
            _ => unreachable!("both are of one family"),
        };
        let start = packet.len();
        packet.extend(transport);
        let sum = checksum::pseudo(source, destination, number, length);
        let field = start + self.protocol.checksum_offset();
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        Super { packet, offload: Offload { protocol: self.protocol, start, size } }
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = vec![0x12, 0x34, 0x00, 0x50];
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend([
            9,
            9,
            9,
            9,
            u8::try_from((20 + self.options) / 4).unwrap() << 4,
            self.flags,
            0x10,
            0,
            0,
            0,
            0,
            0,
        ]);
        tcp.extend((0..self.options).map(|index| u8::try_from(index).unwrap()));
        tcp
    }
}

/// Super-packets of all shapes: odd sizes, flags, options, both families, sequences that wrap around.
pub(super) fn supers() -> impl Strategy<Value = Super> {
    let shape = (
        any::<bool>(),
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)],
        // ACK, and any of FIN, PSH, ECE and CWR.
        any::<u8>().prop_map(|bits| 0x10 | bits & 0xc9),
        any::<u16>(),
        prop_oneof![any::<u32>(), Just(u32::MAX - 700)],
        any::<u8>(),
        (0_usize..=10).prop_map(|words| words * 4),
    );
    let shape = shape.prop_map(|(v6, protocol, flags, id, sequence, tos, options)| Shape {
        v6,
        protocol,
        flags,
        id,
        sequence,
        tos,
        options,
    });
    (shape, 1_usize..1500, 1_usize..40, any::<u8>()).prop_flat_map(|(shape, size, count, seed)| {
        let most = (size * count).min(60_000);
        (1..=most).prop_map(move |length| {
            let payload: Vec<u8> = (0..length).map(|at| seed.wrapping_add((at * 7 % 251) as u8)).collect();
            shape.build(&payload, size)
        })
    })
}
