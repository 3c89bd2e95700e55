//! The Internet checksum (RFC 1071), and the part of it that is left to the kernel.

use std::net::IpAddr;

/// Adds bytes to a sum, as 16-bit words in network order; an odd last byte is the upper half of a word.
#[must_use]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut sum = sum;
    for word in &mut words {
        sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum into 16 bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded: no bits are left above.
    sum as u16
}

/// The checksum of what adds up to a sum.
#[must_use]
pub fn of(sum: u64) -> u16 {
    !fold(sum)
}

/// That of TCP and UDP. UDP writes no checksum as zero, and zero as all ones (RFC 768); for TCP they mean the same.
#[must_use]
pub fn of_transport(sum: u64) -> u16 {
    match of(sum) {
        0 => u16::MAX,
        sum => sum,
    }
}

/// The sum over the pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1); `length` is that of their header
/// and payload in bytes. It is what a packet carries in place of its checksum when the rest is left to the kernel.
#[must_use]
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => add(add(0, &source.octets()), &destination.octets()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => add(add(0, &source.octets()), &destination.octets()),
        _ => unreachable!("a packet has one family"),
    };
    fold(sum + u64::from(protocol) + length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_sums_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(add(0, &bytes)), 0xddf2);
    }

    #[test]
    fn an_odd_byte_is_the_upper_half_of_a_word() {
        assert_eq!(fold(add(0, &[0x12, 0x34, 0x56])), 0x1234 + 0x5600);
        assert_eq!(fold(add(0, &[0xab])), 0xab00);
        assert_eq!(fold(add(0, &[])), 0);
    }

    #[test]
    fn a_sum_does_not_overflow() {
        assert_eq!(fold(add(0, &[0xff; 65_536])), 0xffff);
    }
}
