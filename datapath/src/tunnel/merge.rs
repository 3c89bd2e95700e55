//! Makes one super-packet of packets that follow each other.
//!
//! Merged is only what can be undone: cutting the super-packet gives exactly the packets that came. So nothing is
//! needed on the wire that tells which packets were one before, and a lost datagram only ends a run.

use super::bytes::{long, low16, put, word};
use super::checksum;
use super::inner::{Inner, Protocol, Transport, set_length};
use super::segment::{HEAD, Offload};

/// How many packets make a run at most: as many as a datagram's receive can hold.
pub const PACKETS: usize = 64;
/// Of a packet: its length is 16 bits.
const LONGEST: usize = 65_535;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Packets of one flow that follow each other.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    first: Inner<'a>,
    partial: bool,
    /// TCP or UDP, if others can follow.
    transport: Option<Transport>,
    payloads: [&'a [u8]; PACKETS],
    count: usize,
    /// Bytes of payload of each packet but the last.
    size: usize,
    /// Bytes of payload of all.
    total: usize,
    /// FIN and PSH of the last packet.
    end: u8,
    /// Whether nothing can follow.
    closed: bool,
}

/// A super-packet that is to be written: headers, then [`Run::payloads`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Merged {
    /// Bytes of headers that were written.
    pub head: usize,
    /// How the kernel is to cut it.
    pub offload: Offload,
}

impl<'a> Run<'a> {
    /// Begins with a packet; `partial`: its checksum is left to the kernel. One with a checksum of its own is never
    /// merged: a wrong one would be made right.
    #[must_use]
    pub fn begin(first: Inner<'a>, partial: bool) -> Self {
        let transport = first.transport.filter(|transport| partial && can_be_merged(&first, *transport));
        let payload = transport.map_or(&[][..], |transport| &first.packet[transport.end..]);
        let end = transport.map_or(0, |transport| ending(&first, transport));
        let mut payloads = [&[][..]; PACKETS];
        payloads[0] = payload;
        let closed = transport.is_none() || payload.is_empty() || end != 0;
        Self {
            first,
            partial,
            transport,
            payloads,
            count: 1,
            size: payload.len(),
            total: payload.len(),
            end,
            closed,
        }
    }

    /// Takes the next packet, whose checksum is left to the kernel as well, if it follows.
    pub fn push(&mut self, next: &Inner<'a>) -> bool {
        let Some(transport) = self.transport.filter(|_| !self.closed && self.count < PACKETS) else {
            return false;
        };
        if next.transport != Some(transport) || next.is_v4() != self.first.is_v4() {
            return false;
        }
        let payload = &next.packet[transport.end..];
        let fits = !payload.is_empty()
            && payload.len() <= self.size
            && transport.end + self.total + payload.len() <= LONGEST;
        if !fits || !self.is_followed_by(next, transport) || !can_be_merged(next, transport) {
            return false;
        }
        self.end = ending(next, transport);
        self.closed = self.end != 0 || payload.len() < self.size;
        self.payloads[self.count] = payload;
        self.count += 1;
        self.total += payload.len();
        true
    }

    /// The packet that it began with: as it came.
    #[must_use]
    pub const fn first(&self) -> Inner<'a> {
        self.first
    }

    /// Where the first packet has a checksum that is left to the kernel.
    #[must_use]
    pub fn partial(&self) -> Option<Transport> {
        self.first.transport.filter(|_| self.partial)
    }

    /// The payloads, in order.
    #[must_use]
    pub fn payloads(&self) -> &[&'a [u8]] {
        &self.payloads[..self.count]
    }

    /// Writes the headers of the super-packet; `None` for a single packet, which is written as it came.
    pub fn merge(&self, head: &mut [u8; HEAD]) -> Option<Merged> {
        let Transport { protocol, start, end } = self.transport.filter(|_| self.count > 1)?;
        head[..end].copy_from_slice(&self.first.packet[..end]);
        let total = end + self.total;
        set_length(head, start, total, self.first.is_v4());
        match protocol {
            Protocol::Tcp => head[start + 13] |= self.end,
            Protocol::Udp => put(head, start + 4, low16(total - start)),
        }
        let Inner { source, destination, .. } = self.first;
        let sum = checksum::pseudo(source, destination, protocol.number(), total - start);
        put(head, start + protocol.checksum_offset(), sum);
        Some(Merged { head: end, offload: Offload { protocol, start, size: self.size } })
    }

    /// Whether the headers say that a packet is the next one.
    fn is_followed_by(&self, next: &Inner<'_>, Transport { protocol, start, .. }: Transport) -> bool {
        let (first, next) = (self.first.packet, next.packet);
        let ip = if self.first.is_v4() {
            // All but length, identification and checksum.
            let id = word(first, 4).wrapping_add(low16(self.count));
            first[..2] == next[..2]
                && word(next, 4) == id
                && first[6..10] == next[6..10]
                && first[12..20] == next[12..20]
        } else {
            first[..4] == next[..4] && first[6..40] == next[6..40]
        };
        let (first, next) = (&first[start..], &next[start..]);
        ip && match protocol {
            // Ports; length and checksum are what they must be.
            Protocol::Udp => first[..4] == next[..4],
            Protocol::Tcp => {
                let header = usize::from(first[12] >> 4) * 4;
                // Less than 64 KiB further, and the sequence wraps around.
                let sequence = long(first, 4).wrapping_add(self.total as u32);
                let flags = first[13] & !CWR == next[13] & !(FIN | PSH);
                // Ports, acknowledgement, length, window, urgent pointer, options.
                let rest = first[..4] == next[..4]
                    && first[8..13] == next[8..13]
                    && first[14..16] == next[14..16]
                    && first[18..header] == next[18..header];
                long(next, 4) == sequence && flags && rest
            }
        }
    }
}

/// Whether cutting could give the packet back.
fn can_be_merged(packet: &Inner<'_>, Transport { protocol, start, end }: Transport) -> bool {
    let bytes = packet.packet;
    let holds = |at: usize, value: u16| word(bytes, at) == value;
    // No options in IPv4, and a header whose checksum will be computed anew is right now.
    let ip =
        !packet.is_v4() || (start == 20 && checksum::fold(checksum::add(0, &bytes[..start])) == u16::MAX);
    let length = bytes.len() - start;
    let sum = checksum::pseudo(packet.source, packet.destination, protocol.number(), length);
    let own = match protocol {
        Protocol::Tcp => bytes[start + 13] & (SYN | RST | URG) == 0 && end <= HEAD,
        Protocol::Udp => usize::from(word(bytes, start + 4)) == length,
    };
    ip && own && holds(start + protocol.checksum_offset(), sum)
}

/// The flags that only the last packet of a run has.
fn ending(packet: &Inner<'_>, Transport { protocol, start, .. }: Transport) -> u8 {
    match protocol {
        Protocol::Tcp => packet.packet[start + 13] & (FIN | PSH),
        Protocol::Udp => 0,
    }
}

#[cfg(test)]
mod tests;
