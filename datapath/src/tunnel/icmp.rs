//! What a router tells the sender of a packet that goes no further (RFC 792, RFC 1812, RFC 4443).

use std::net::{IpAddr, Ipv4Addr};

use super::bytes::{low16, put, word};
use super::checksum;
use super::inner::Inner;

/// Bytes of a message over IPv4 at most (RFC 1812 §4.3.2.3), and over IPv6 (RFC 4443 §2.4).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;
/// Room for each of them.
pub const LONGEST: usize = LONGEST_V6;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Bytes before the quoted packet.
const HEAD: usize = 8;
/// Hops that a message may take.
const HOPS: u8 = 64;

/// What is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// Nobody has the destination.
    Unreachable,
    /// Packets to there may have so many bytes.
    TooBig(u16),
}

/// Writes the message about a packet, from an own address; answers how many bytes it has. `None`: nobody may be told of
/// such a packet, or the address is of the other family.
pub fn answer(about: &Inner<'_>, problem: Problem, own: IpAddr, to: &mut [u8; LONGEST]) -> Option<usize> {
    if !may_be_answered(about) {
        return None;
    }
    match (own, about.source) {
        (IpAddr::V4(own), IpAddr::V4(source)) => {
            let length = (20 + HEAD + about.packet.len()).min(LONGEST_V4);
            let message = &mut to[..length];
            message[..20].fill(0);
            message[0] = 0x45;
            // Internetwork control, as RFC 1812 §4.3.2.5 wants it.
            message[1] = 0xc0;
            put(message, 2, low16(length));
            message[8] = HOPS;
            message[9] = ICMP;
            message[12..16].copy_from_slice(&own.octets());
            message[16..20].copy_from_slice(&source.octets());
            let sum = checksum::of(checksum::add(0, &message[..20]));
            put(message, 10, sum);
            let (kind, code, mtu) = match problem {
                Problem::Unreachable => (3, 0, 0),
                Problem::TooBig(mtu) => (3, 4, mtu),
            };
            let body = &mut message[20..];
            fill(body, about.packet, kind, code, mtu);
            let sum = checksum::of(checksum::add(0, body));
            put(body, 2, sum);
            Some(length)
        }
        (IpAddr::V6(own), IpAddr::V6(source)) => {
            let length = (40 + HEAD + about.packet.len()).min(LONGEST_V6);
            let message = &mut to[..length];
            message[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            put(message, 4, low16(length - 40));
            message[6] = ICMP_V6;
            message[7] = HOPS;
            message[8..24].copy_from_slice(&own.octets());
            message[24..40].copy_from_slice(&source.octets());
            let (kind, code, mtu) = match problem {
                Problem::Unreachable => (1, 0, 0),
                Problem::TooBig(mtu) => (2, 0, mtu),
            };
            let body = &mut message[40..];
            fill(body, about.packet, kind, code, mtu);
            let pseudo = checksum::pseudo(own.into(), source.into(), ICMP_V6, body.len());
            let sum = checksum::of(checksum::add(u64::from(pseudo), body));
            put(body, 2, sum);
            Some(length)
        }
        _ => None,
    }
}

fn fill(body: &mut [u8], about: &[u8], kind: u8, code: u8, mtu: u16) {
    body[..HEAD].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    put(body, 6, mtu);
    let quoted = body.len() - HEAD;
    body[HEAD..].copy_from_slice(&about[..quoted]);
}

/// RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e).
fn may_be_answered(about: &Inner<'_>) -> bool {
    let is_one_host = match about.source {
        IpAddr::V4(source) => {
            !source.is_unspecified() && !source.is_loopback() && source < Ipv4Addr::new(224, 0, 0, 0)
        }
        IpAddr::V6(source) => !source.is_unspecified() && !source.is_loopback() && !source.is_multicast(),
    };
    let is_for_one_host = match about.destination {
        IpAddr::V4(destination) => !destination.is_multicast() && !destination.is_broadcast(),
        IpAddr::V6(destination) => !destination.is_multicast(),
    };
    is_one_host && is_for_one_host && if about.is_v4() { is_told_of_v4(about) } else { is_told_of_v6(about) }
}

/// Neither an error itself, nor a fragment but the first.
fn is_told_of_v4(about: &Inner<'_>) -> bool {
    let is_later_fragment = word(about.packet, 6) & 0x1fff != 0;
    let is_error = about.packet[9] == ICMP
        // Without its type, nobody knows.
        && about.packet.get(about.header_length()).is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12));
    !is_later_fragment && !is_error
}

fn is_told_of_v6(about: &Inner<'_>) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let (mut next, mut at) = (about.packet[6], 40);
    loop {
        let extension = about.packet.get(at..at + 8);
        match (next, extension) {
            (ICMP_V6, _) => {
                // Errors, and redirects.
                return about.packet.get(at).is_some_and(|kind| *kind >= 128 && *kind != 137);
            }
            (FRAGMENT, Some(extension)) => {
                if word(extension, 2) >> 3 != 0 {
                    return false;
                }
                (next, at) = (extension[0], at + 8);
            }
            (HOP_BY_HOP | ROUTING | OPTIONS, Some(extension)) => {
                (next, at) = (extension[0], at + 8 + usize::from(extension[1]) * 8);
            }
            // What it is stays hidden.
            (HOP_BY_HOP | ROUTING | OPTIONS | FRAGMENT, None) => return false,
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests;
