mod kernel;

use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::tunnel::inner::complete_checksum;
use crate::tunnel::testing::{Shape, supers};

proptest! {
    #[test]
    fn the_segments_are_whole_packets_that_carry_the_payload_in_order(whole in supers()) {
        let size = whole.offload.size;
        let head = whole.inner().transport.unwrap().end;
        let packets = whole.cut();
        let payload: Vec<u8> = packets.iter().flat_map(|packet| packet[head..].iter().copied()).collect();
        prop_assert_eq!(&payload, &whole.packet[head..]);
        let (last, others) = packets.split_last().unwrap();
        prop_assert!(others.iter().all(|packet| packet.len() == head + size));
        prop_assert!((1..=size).contains(&(last.len() - head)));
        for mut packet in packets {
            // Another's eyes: lengths and all checksums are right.
            complete_checksum(&mut packet, whole.offload.start, whole.offload.protocol.checksum_offset()).unwrap();
            let seen = SlicedPacket::from_ip(&packet).unwrap();
            if let Some(ip) = seen.net.as_ref().and_then(|net| net.ipv4_ref()) {
                prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            }
            let (field, sum) = checksums(&seen);
            prop_assert!(field == sum || (sum == 0 && field == 0xffff), "{field:#06x} for {sum:#06x}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused_and_nothing_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        start in 0_usize..250,
        size in 0_usize..100,
        tcp in any::<bool>(),
    ) {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        if let Ok(inner) = Inner::parse(&bytes)
            && let Ok(cut) = Cut::new(inner, Offload { protocol, start, size })
        {
            let mut head = [0; HEAD];
            prop_assert!((0..cut.count()).all(|index| cut.segment(index, &mut head).is_some()));
            prop_assert!(cut.segment(cut.count(), &mut head).is_none());
        }
    }
}

/// The checksum field, and what should be there.
fn checksums(seen: &SlicedPacket<'_>) -> (u16, u16) {
    let net = seen.net.as_ref().unwrap();
    let (v4, v6) = (net.ipv4_ref(), net.ipv6_ref());
    match seen.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let sum = v4.map_or_else(
                || {
                    let ip = v6.unwrap().header();
                    tcp.calc_checksum_ipv6(ip.source(), ip.destination())
                },
                |ip| tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
            );
            (tcp.checksum(), sum.unwrap())
        }
        TransportSlice::Udp(udp) => {
            let sum = v4.map_or_else(
                || udp.to_header().calc_checksum_ipv6(&v6.unwrap().header().to_header(), udp.payload()),
                |ip| udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()),
            );
            (udp.checksum(), sum.unwrap())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}

#[test]
fn flags_identification_and_sequence_are_the_kernels() {
    // CWR, ACK, PSH and FIN.
    let shape = Shape {
        v6: false,
        protocol: Protocol::Tcp,
        flags: 0x99,
        id: 0xffff,
        sequence: u32::MAX - 1,
        tos: 0,
        options: 12,
    };
    let packets = shape.build(&[7; 25], 10).cut();
    let of = |at: usize| packets.iter().map(|packet| packet[at]).collect::<Vec<_>>();
    let words =
        |at: usize| packets.iter().map(|p| u16::from_be_bytes([p[at], p[at + 1]])).collect::<Vec<_>>();
    assert_eq!(of(20 + 13), [0x90, 0x10, 0x19]);
    assert_eq!(words(4), [0xffff, 0, 1]);
    assert_eq!(words(2), [62, 62, 57]);
    let sequence: Vec<_> =
        packets.iter().map(|p| u32::from_be_bytes(p[24..28].try_into().unwrap())).collect();
    assert_eq!(sequence, [u32::MAX - 1, 8, 18]);
}

/// Its length could not be set.
#[test]
fn what_begins_within_the_ip_header_is_not_cut() {
    for v6 in [false, true] {
        let shape = Shape { v6, protocol: Protocol::Udp, flags: 0, id: 0, sequence: 0, tos: 0, options: 0 };
        let whole = shape.build(&[1; 30], 12);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for start in 0..whole.offload.start {
                let cut = Cut::new(whole.inner(), Offload { protocol, start, size: 1 });
                assert!(matches!(cut, Err(Malformed::HeaderLength(_))), "{protocol:?} at {start}: {cut:?}");
            }
        }
    }
}

/// Only the kernel knows how to find TCP behind extension headers: it says so.
#[test]
fn a_packet_with_extension_headers_is_cut_where_the_kernel_says() {
    let shape =
        Shape { v6: true, protocol: Protocol::Tcp, flags: 0x10, id: 0, sequence: 5, tos: 0, options: 0 };
    let mut whole = shape.build(&[1; 30], 12);
    // Eight bytes of destination options between IPv6 and TCP.
    whole.packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    whole.packet[6] = 60;
    whole.packet[5] += 8;
    whole.offload.start = 48;
    assert!(whole.inner().transport.is_none());
    let packets = whole.cut();
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [80, 80, 74]);
    assert!(packets.iter().all(|packet| packet[40..48] == [6, 0, 1, 4, 0, 0, 0, 0]));
}
