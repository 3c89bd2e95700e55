//! Cuts a super-packet into the packets that the kernel would make of it.
//!
//! ```text
//!  [IP][TCP][ payload ............................ ]
//!     │        │ size    │ size    │ rest │
//!     ▼        ▼         ▼         ▼
//!  [IP][TCP][ ]   [IP][TCP][ ]   [IP][TCP][ ]     headers are written, payloads are borrowed
//! ```

use super::bytes::{long, low16, put, word};
use super::checksum;
use super::inner::{Inner, Malformed, Protocol, Transport, set_length};

/// Room for the headers of a segment: 60 bytes of IPv4 and 60 of TCP, or IPv6 with extension headers.
pub const HEAD: usize = 192;
/// FIN and PSH: of the last segment only.
const AT_THE_END: u8 = 0x01 | 0x08;
/// CWR: of the first segment only (RFC 3168 §6.1.2).
const AT_THE_START: u8 = 0x80;

/// What the kernel wants done to a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offload {
    /// What it carries.
    pub protocol: Protocol,
    /// Where the header of that begins.
    pub start: usize,
    /// Bytes of payload of each segment but the last.
    pub size: usize,
}

/// A super-packet, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    inner: Inner<'a>,
    transport: Transport,
    size: usize,
}

/// One packet of several: its headers are written elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment<'a> {
    /// How many bytes of headers were written.
    pub head: usize,
    /// What follows them.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Completes the checksum in the headers that were written.
    pub fn complete(&self, head: &mut [u8; HEAD], Offload { protocol, start, .. }: Offload) {
        // The headers are an even number of bytes.
        let sum = checksum::add(checksum::add(0, &head[start..self.head]), self.payload);
        put(head, start + protocol.checksum_offset(), checksum::of_transport(sum));
    }
}

impl<'a> Cut<'a> {
    /// Looks at a super-packet; the length of its headers is taken from itself.
    ///
    /// # Errors
    /// It does not hold what is to be cut.
    pub fn new(inner: Inner<'a>, offload: Offload) -> Result<Self, Malformed> {
        let Offload { protocol, start, size } = offload;
        if start < inner.header_length() {
            return Err(Malformed::HeaderLength(start));
        }
        // Behind IPv6 extension headers only the kernel knows where to look.
        let transport = match inner.transport {
            Some(transport) if transport.start == start && transport.protocol == protocol => transport,
            _ => Transport::read(inner.packet, start, protocol)?,
        };
        let payload = inner.packet.len() - transport.end;
        if size == 0 || payload == 0 {
            return Err(Malformed::Size { payload, size });
        }
        if transport.end > HEAD {
            return Err(Malformed::Headers(transport.end));
        }
        Ok(Self { inner, transport, size })
    }

    /// How many packets it becomes: at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.inner.packet.len() - self.transport.end).div_ceil(self.size)
    }

    /// Bytes of each packet but the last, headers included.
    #[must_use]
    pub fn full(&self) -> usize {
        self.transport.end + self.size
    }

    /// Writes the headers of one packet; the checksum of TCP or UDP is left to the kernel. `None`: there are no more.
    pub fn segment(&self, index: usize, head: &mut [u8; HEAD]) -> Option<Segment<'a>> {
        let Transport { protocol, start, end } = self.transport;
        let (headers, payload) = self.inner.packet.split_at(end);
        let from = index * self.size;
        let rest = payload.get(from..).filter(|rest| !rest.is_empty())?;
        let is_last = rest.len() <= self.size;
        let payload = &rest[..rest.len().min(self.size)];
        head[..end].copy_from_slice(headers);

        let total = end + payload.len();
        let is_v4 = self.inner.is_v4();
        if is_v4 {
            let first = word(head, 4);
            put(head, 4, first.wrapping_add(low16(index)));
        }
        set_length(head, start, total, is_v4);
        // The pseudo-header's sum of the whole has the length of the whole in it.
        let length = low16(total - start);
        let field = start + protocol.checksum_offset();
        let whole = low16(self.inner.packet.len() - start);
        let sum = u64::from(word(head, field)) + u64::from(!whole) + u64::from(length);
        put(head, field, checksum::fold(sum));
        match protocol {
            Protocol::Tcp => {
                // Less than 64 KiB further, and the sequence wraps around.
                let sequence = long(head, start + 4).wrapping_add(from as u32);
                head[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
                if !is_last {
                    head[start + 13] &= !AT_THE_END;
                }
                if index > 0 {
                    head[start + 13] &= !AT_THE_START;
                }
            }
            Protocol::Udp => put(head, start + 4, length),
        }
        Some(Segment { head: end, payload })
    }
}

#[cfg(test)]
mod tests;
