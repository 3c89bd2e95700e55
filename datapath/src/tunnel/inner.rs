//! What a tunnel reads of an inner packet: whose it is, and where TCP or UDP begin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{low16, put};
use super::checksum;

/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// Bytes of the fixed IPv6 header.
const IPV6: usize = 40;
/// Bytes of a TCP header without options.
const TCP: usize = 20;
/// Bytes of a UDP header.
const UDP: usize = 8;

/// A protocol above IP that may leave its checksum to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where its checksum is, from the beginning of its header.
    #[must_use]
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// TCP or UDP in a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transport {
    /// Which.
    pub protocol: Protocol,
    /// Where its header begins.
    pub start: usize,
    /// Where its header ends.
    pub end: usize,
}

/// A packet whose lengths were checked: what is here can be read from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inner<'a> {
    /// All of it, and nothing else.
    pub packet: &'a [u8],
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// TCP or UDP right behind the IP header; not in a fragment, and in IPv6 not behind extension headers.
    pub transport: Option<Transport>,
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Neither IPv4 nor IPv6.
    #[error("the IP version is {0}")]
    Version(u8),
    /// It ends within a header.
    #[error("it ends within its headers, after {0} bytes")]
    Short(usize),
    /// A header that is shorter than it can be.
    #[error("a header's length is {0} bytes")]
    HeaderLength(usize),
    /// The packet says another length than it has.
    #[error("it says that it has {said} bytes and has {has}")]
    Length {
        /// In its header.
        said: usize,
        /// How many there are.
        has: usize,
    },
    /// What is to be cut has nothing to cut.
    #[error("there is nothing to cut: {payload} bytes of payload, segments of {size}")]
    Size {
        /// Bytes behind the headers.
        payload: usize,
        /// Bytes wanted for each segment.
        size: usize,
    },
    /// More bytes of headers than anybody needs.
    #[error("its headers have {0} bytes")]
    Headers(usize),
    /// The kernel is asked to complete a checksum that is not there.
    #[error("there is no checksum to complete")]
    Checksum,
}

impl<'a> Inner<'a> {
    /// Reads a whole packet.
    ///
    /// # Errors
    /// It is none, or has another length than it says.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            Some(version) => Err(Malformed::Version(version)),
            None => Err(Malformed::Short(0)),
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = packet.first_chunk::<IPV4>().ok_or(Malformed::Short(packet.len()))?;
        let start = usize::from(fixed[0] & 0xf) * 4;
        if start < IPV4 {
            return Err(Malformed::HeaderLength(start));
        }
        let said = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        check_length(packet, said)?;
        if packet.len() < start {
            return Err(Malformed::Short(packet.len()));
        }
        // The more-fragments bit, and the offset.
        let is_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
        Ok(Self {
            packet,
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            transport: if is_fragment { None } else { transport(packet, start, fixed[9])? },
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = packet.first_chunk::<IPV6>().ok_or(Malformed::Short(packet.len()))?;
        let said = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        check_length(packet, IPV6 + said)?;
        let address = |at: usize| {
            let octets = fixed[at..].first_chunk::<16>();
            Ipv6Addr::from(*octets.unwrap_or_else(|| unreachable!("an IPv6 header has two addresses")))
        };
        Ok(Self {
            packet,
            source: address(8).into(),
            destination: address(24).into(),
            transport: transport(packet, IPV6, fixed[6])?,
        })
    }

    /// Bytes of its IP header, in IPv6 without extensions.
    pub(super) fn header_length(&self) -> usize {
        if self.is_v4() { usize::from(self.packet[0] & 0xf) * 4 } else { IPV6 }
    }

    /// Whether it is IPv4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }
}

fn check_length(packet: &[u8], said: usize) -> Result<(), Malformed> {
    if said == packet.len() { Ok(()) } else { Err(Malformed::Length { said, has: packet.len() }) }
}

fn transport(packet: &[u8], start: usize, protocol: u8) -> Result<Option<Transport>, Malformed> {
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let known = protocols.into_iter().find(|known| known.number() == protocol);
    known.map(|protocol| Transport::read(packet, start, protocol)).transpose()
}

impl Transport {
    /// Reads the header that begins at `start`.
    pub(super) fn read(packet: &[u8], start: usize, protocol: Protocol) -> Result<Self, Malformed> {
        let least = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        let header = packet.get(start..start + least).ok_or(Malformed::Short(packet.len()))?;
        let length = match protocol {
            Protocol::Tcp => usize::from(header[12] >> 4) * 4,
            Protocol::Udp => UDP,
        };
        if length < least {
            return Err(Malformed::HeaderLength(length));
        }
        let end = start + length;
        if packet.len() < end {
            return Err(Malformed::Short(packet.len()));
        }
        Ok(Self { protocol, start, end })
    }
}

/// Completes a checksum that was left to the kernel: it begins at `start`, and its field is `offset` bytes further on
/// and holds the pseudo-header's sum.
///
/// # Errors
/// The field is not in the packet.
pub fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> Result<(), Malformed> {
    let field = start + offset;
    if packet.len() < field + 2 {
        return Err(Malformed::Checksum);
    }
    let sum = checksum::of_transport(checksum::add(0, &packet[start..]));
    put(packet, field, sum);
    Ok(())
}

/// Sets the length of a packet in its IP header; in IPv4 that header ends at `end` and gets its checksum.
pub(super) fn set_length(head: &mut [u8], end: usize, total: usize, is_v4: bool) {
    if is_v4 {
        put(head, 2, low16(total));
        put(head, 10, 0);
        let sum = checksum::of(checksum::add(0, &head[..end]));
        put(head, 10, sum);
    } else {
        put(head, 4, low16(total - IPV6));
    }
}
