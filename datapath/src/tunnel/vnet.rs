//! What a TUN device says of a packet, or is told of it: `struct virtio_net_hdr` (virtio 1.3 §5.1.6), in the order of
//! bytes of this machine.

use super::inner::{Protocol, Transport};
use super::segment::Offload;

/// Bytes before each packet.
pub const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const NONE: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP_L4: u8 = 5;
/// Some segment has CWR.
const ECN: u8 = 0x80;

/// What is left to do with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// Nothing.
    Nothing,
    /// Its checksum is to be completed, which begins at `start` and is `offset` bytes further on.
    Checksum {
        /// Where the header above IP begins.
        start: usize,
        /// From there to the field.
        offset: usize,
    },
    /// It is to be cut; what comes out needs its checksums.
    Cut(Offload),
}

/// Why the bytes before a packet are not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// Less than a header.
    #[error("{0} bytes are no packet of a TUN device")]
    Short(usize),
    /// An offload that was not asked for.
    #[error("the offload {0:#04x} was never asked for")]
    Kind(u8),
}

/// Reads what a device has handed out.
///
/// # Errors
/// It is not understood.
pub fn decode(bytes: &[u8]) -> Result<(Work, &[u8]), Unknown> {
    let (header, packet) = bytes.split_first_chunk::<LENGTH>().ok_or(Unknown::Short(bytes.len()))?;
    let word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (size, start, offset) = (word(4), word(6), word(8));
    let cut = |protocol| Work::Cut(Offload { protocol, start, size });
    let work = match header[1] & !ECN {
        NONE if header[0] & NEEDS_CHECKSUM != 0 => Work::Checksum { start, offset },
        NONE => Work::Nothing,
        TCP_V4 | TCP_V6 => cut(Protocol::Tcp),
        UDP_L4 => cut(Protocol::Udp),
        kind => return Err(Unknown::Kind(kind)),
    };
    Ok((work, packet))
}

/// What goes before a packet whose checksum is left to the kernel.
#[must_use]
pub fn partial(Transport { protocol, start, .. }: Transport) -> [u8; LENGTH] {
    encode(NEEDS_CHECKSUM, NONE, 0, 0, start, protocol)
}

/// What goes before a packet that the kernel may cut; `head`: bytes of its headers.
#[must_use]
pub fn super_packet(Offload { protocol, start, size }: Offload, head: usize, is_v4: bool) -> [u8; LENGTH] {
    let kind = match (protocol, is_v4) {
        (Protocol::Tcp, true) => TCP_V4,
        (Protocol::Tcp, false) => TCP_V6,
        (Protocol::Udp, _) => UDP_L4,
    };
    encode(NEEDS_CHECKSUM, kind, head, size, start, protocol)
}

/// What goes before a packet that is whole.
pub const WHOLE: [u8; LENGTH] = [0; LENGTH];

fn encode(flags: u8, kind: u8, head: usize, size: usize, start: usize, protocol: Protocol) -> [u8; LENGTH] {
    let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, value) in [(2, head), (4, size), (6, start), (8, protocol.checksum_offset())] {
        // Offsets in a packet, which is shorter than 64 KiB.
        header[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
    }
    header
}
