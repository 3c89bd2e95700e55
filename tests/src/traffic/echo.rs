//! ICMP and ICMPv6 echo messages (RFC 792, RFC 4443) that carry their own sequence number.
//!
//! ```text
//!  type, code, checksum, identifier, sequence (16 bit) | prober (8 bytes) | sequence (8 bytes) | padding
//! ```
//! The 64-bit sequence does not wrap, and the prober's number tells the replies of two probers
//! in one namespace apart.

use std::net::IpAddr;

/// Bytes of an echo message before the padding.
pub(super) const HEADER: usize = 24;

/// Writes an echo request into `message`, whose length is the message's. ICMPv6 checksums are
/// the kernel's work.
pub(super) fn write_request(message: &mut [u8], target: IpAddr, prober: u64, sequence: u64) {
    let [.., high, low] = sequence.to_be_bytes();
    let [.., id_high, id_low] = prober.to_be_bytes();
    let kind = if target.is_ipv4() { 8 } else { 128 };
    message[..8].copy_from_slice(&[kind, 0, 0, 0, id_high, id_low, high, low]);
    message[8..16].copy_from_slice(&prober.to_be_bytes());
    message[16..24].copy_from_slice(&sequence.to_be_bytes());
    if target.is_ipv4() {
        let sum = checksum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sequence number of a reply to `prober`; `None` for anything else. Raw IPv4 sockets
/// deliver the IP header too, IPv6 ones do not.
pub(super) fn read_reply(packet: &[u8], target: IpAddr, prober: u64) -> Option<u64> {
    let (message, kind) = match target {
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, 0),
        IpAddr::V6(_) => (packet, 129),
    };
    if message.len() < HEADER || message[0] != kind || message[8..16] != prober.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(message[16..24].try_into().ok()?))
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Slice, Icmpv4Type};

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_request_is_what_another_implementation_reads() {
        let mut message = [0; 56];
        write_request(&mut message, TARGET, 0xabcd_1234, 0x1_0002);
        let slice = Icmpv4Slice::from_slice(&message).unwrap();
        let Icmpv4Type::EchoRequest(echo) = slice.icmp_type() else { panic!("{slice:?}") };
        assert_eq!((echo.id, echo.seq), (0x1234, 2));
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn a_reply_is_recognised_by_prober_and_whole_sequence() {
        let mut message = [0; HEADER];
        write_request(&mut message, TARGET, 7, 0x1_0002);
        message[0] = 0;
        let packet = [&[0x45; 1][..], &[0; 19], &message].concat();
        assert_eq!(read_reply(&packet, TARGET, 7), Some(0x1_0002));
        assert_eq!(read_reply(&packet, TARGET, 8), None);
    }

    #[test]
    fn a_short_packet_is_no_reply() {
        assert_eq!(read_reply(&[], TARGET, 7), None);
        assert_eq!(read_reply(&[0x4f, 0, 0], TARGET, 7), None);
    }
}
