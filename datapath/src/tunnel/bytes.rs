//! Numbers in network order at a place in a packet, which whoever asks knows to be there.

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Of a length or a count that is known to fit: no packet is longer than 65,535 bytes.
pub(super) const fn low16(number: usize) -> u16 {
    number as u16
}
