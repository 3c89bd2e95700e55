use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4, icmpv6};
use proptest::prelude::*;

use super::*;
use crate::tunnel::testing::supers;

fn own(v4: bool) -> IpAddr {
    if v4 { "10.9.0.1".parse().unwrap() } else { "fd00:9::1".parse().unwrap() }
}

fn told(packet: &[u8]) -> bool {
    let about = Inner::parse(packet).unwrap();
    answer(&about, Problem::Unreachable, own(about.is_v4()), &mut [0; LONGEST]).is_some()
}

/// Another's eyes: a message of the right kind, whose checksums are right and which quotes the packet.
#[track_caller]
fn check(packet: &[u8], problem: Problem) {
    let about = Inner::parse(packet).unwrap();
    let mut room = [0xaa; LONGEST];
    let length = answer(&about, problem, own(about.is_v4()), &mut room).unwrap();
    let message = &room[..length];
    let inner = Inner::parse(message).unwrap();
    assert_eq!((inner.source, inner.destination), (own(about.is_v4()), about.source));
    let seen = SlicedPacket::from_ip(message).unwrap();
    match seen.transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            let expected = match problem {
                Problem::Unreachable => icmpv4::DestUnreachableHeader::Network,
                Problem::TooBig(next_hop_mtu) => {
                    icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu }
                }
            };
            assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            assert!(packet.starts_with(icmp.payload()));
            assert!(length == 576 || icmp.payload().len() == packet.len());
            assert_eq!(checksum::fold(checksum::add(0, &message[..20])), u16::MAX);
        }
        TransportSlice::Icmpv6(icmp) => {
            let expected = match problem {
                Problem::Unreachable => {
                    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute)
                }
                Problem::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
            };
            assert_eq!(icmp.icmp_type(), expected);
            let ip = seen.net.as_ref().unwrap().ipv6_ref().unwrap().header();
            assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
            assert!(packet.starts_with(icmp.payload()));
            assert!(length == 1280 || icmp.payload().len() == packet.len());
        }
        other => panic!("no ICMP: {other:?}"),
    }
}

proptest! {
    #[test]
    fn a_message_is_right_in_anothers_eyes(whole in supers(), mtu in 68_u16..) {
        check(&whole.packet, Problem::Unreachable);
        check(&whole.packet, Problem::TooBig(mtu));
    }

    #[test]
    fn nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 20..200), v4 in any::<bool>()) {
        let length = low16(bytes.len());
        bytes[0] = if v4 { 0x45 } else { 0x60 };
        if v4 {
            put(&mut bytes, 2, length);
        } else {
            put(&mut bytes, 4, length.saturating_sub(40));
        }
        if let Ok(about) = Inner::parse(&bytes) {
            answer(&about, Problem::TooBig(1280), own(v4), &mut [0; LONGEST]);
        }
    }
}

/// A packet with a protocol and what follows its header.
fn packet(v4: bool, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = if v4 { vec![0; 20] } else { vec![0; 40] };
    packet.extend(rest);
    let length = low16(packet.len());
    if v4 {
        packet[0] = 0x45;
        put(&mut packet, 2, length);
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
    } else {
        packet[0] = 0x60;
        put(&mut packet, 4, length - 40);
        packet[6] = protocol;
        packet[8] = 0xfd;
        packet[24] = 0xfd;
    }
    packet
}

#[test]
fn nobody_is_told_of_errors() {
    for (kind, is_error) in [(0, false), (8, false), (3, true), (4, true), (5, true), (11, true), (12, true)]
    {
        assert_eq!(told(&packet(true, 1, &[kind; 8])), !is_error, "type {kind}");
    }
    for (kind, is_error) in [(128, false), (129, false), (1, true), (2, true), (127, true), (137, true)] {
        assert_eq!(told(&packet(false, 58, &[kind; 8])), !is_error, "type {kind}");
        let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &[kind; 8]].concat();
        assert_eq!(told(&packet(false, 60, &behind)), !is_error, "type {kind} behind options");
    }
    assert!(!told(&packet(true, 1, &[])), "nobody knows what it is");
    assert!(!told(&packet(false, 0, &[58, 200])), "nobody knows what it is");
}

#[test]
fn nobody_is_told_of_fragments_but_the_first() {
    for (offset, is_told) in [(0x2000, true), (0x2001, false), (0x0001, false), (0x4000, true)] {
        let mut fragment = packet(true, 17, &[0; 16]);
        put(&mut fragment, 6, offset);
        assert_eq!(told(&fragment), is_told, "{offset:#06x}");
    }
    for (offset, is_told) in [(0x0001, true), (0x0009, false), (0x0008, false)] {
        let mut fragment = packet(false, 44, &[17, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(&mut fragment, 42, offset);
        assert_eq!(told(&fragment), is_told, "{offset:#06x}");
    }
}

#[test]
fn nobody_is_told_who_is_not_one_host() {
    let with = |v4: bool, at: usize, octets: &[u8]| {
        let mut packet = packet(v4, 99, &[0; 8]);
        packet[at..at + octets.len()].copy_from_slice(octets);
        told(&packet)
    };
    assert!(with(true, 12, &[10, 1, 0, 3]));
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]] {
        assert!(!with(true, 12, &source), "from {source:?}");
    }
    assert!(!with(true, 16, &[224, 0, 0, 251]));
    assert!(!with(true, 16, &[255, 255, 255, 255]));
    let mut loopback = [0; 16];
    assert!(!with(false, 8, &loopback));
    loopback[15] = 1;
    assert!(!with(false, 8, &loopback));
    assert!(!with(false, 8, &[0xff, 2]));
    assert!(!with(false, 24, &[0xff, 2]));
    let of_v4 = packet(true, 99, &[0; 8]);
    let about = Inner::parse(&of_v4).unwrap();
    assert_eq!(answer(&about, Problem::Unreachable, own(false), &mut [0; LONGEST]), None);
}
