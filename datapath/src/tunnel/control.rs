//! Datagrams of the tunnel itself: probes of a path's MTU, and their answers.
//!
//! ```text
//!  0            12     13          16                 24
//!  ├────────────┼──────┼───────────┼──────────────────┼─────────────────────────┤
//!  │ header, 0C │ type │ 0         │ nonce            │ of a probe: zeros       │
//!  └────────────┴──────┴───────────┴──────────────────┴─────────────────────────┘
//! ```

use super::header::{self, Header, Unreadable};

/// The flag in the first byte.
const CONTROL: u8 = 0b0010;
/// Version 1 with that flag alone.
const FIRST: u8 = 0x10 | CONTROL;

/// Bytes of an answer, and of a probe at least.
pub const LENGTH: usize = header::LENGTH + 12;
const PROBE: u8 = 1;
const ANSWER: u8 = 2;

/// What a datagram says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Control {
    /// Answer this, if it arrives.
    Probe(u64),
    /// It has arrived.
    Answer(u64),
}

/// Whether a datagram is one of these.
#[must_use]
pub fn is_control(datagram: &[u8]) -> bool {
    datagram.first() == Some(&FIRST)
}

impl Control {
    /// As bytes, without what fills up a probe.
    #[must_use]
    pub fn encode(self, header: Header) -> [u8; LENGTH] {
        let (kind, nonce) = match self {
            Self::Probe(nonce) => (PROBE, nonce),
            Self::Answer(nonce) => (ANSWER, nonce),
        };
        let mut bytes = [0; LENGTH];
        bytes[..header::LENGTH].copy_from_slice(&Header { partial: false, ..header }.encode());
        bytes[0] |= CONTROL;
        bytes[header::LENGTH] = kind;
        bytes[16..].copy_from_slice(&nonce.to_be_bytes());
        bytes
    }

    /// From a whole datagram.
    ///
    /// # Errors
    /// It is none, or of a type that is not known.
    pub fn decode(datagram: &[u8]) -> Result<(Header, Self), Unreadable> {
        let mut bytes = *datagram.first_chunk::<LENGTH>().ok_or(Unreadable::Short)?;
        if bytes[0] != FIRST {
            return Err(Unreadable::Version(bytes[0]));
        }
        bytes[0] &= !CONTROL;
        let (header, rest) = Header::decode(&bytes)?;
        let [kind, 0, 0, 0, n0, n1, n2, n3, n4, n5, n6, n7] = *rest else {
            return Err(Unreadable::Version(FIRST));
        };
        let nonce = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        match kind {
            PROBE => Ok((header, Self::Probe(nonce))),
            ANSWER if datagram.len() == LENGTH => Ok((header, Self::Answer(nonce))),
            _ => Err(Unreadable::Version(FIRST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Key, Vni};

    use super::*;

    fn header() -> Header {
        Header {
            vni: Vni::try_from(0x01_0203).unwrap(),
            key: Key::try_from(0x1122_3344_5566_7788).unwrap(),
            partial: false,
        }
    }

    #[test]
    fn every_byte_is_where_the_picture_has_it() {
        let probe = Control::Probe(0x0102_0304_0506_0708);
        let mut bytes = probe.encode(header()).to_vec();
        let before = [0x12, 1, 2, 3, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        assert_eq!(bytes, [&before[..], &[1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]].concat());
        bytes.resize(1400, 0);
        assert!(is_control(&bytes));
        assert_eq!(Control::decode(&bytes), Ok((header(), probe)));
        let answer = Control::Answer(9);
        let bytes = answer.encode(header());
        assert_eq!(bytes[12], 2);
        assert_eq!(Control::decode(&bytes), Ok((header(), answer)));
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = Control::Answer(1).encode(header());
        for length in 0..LENGTH {
            assert_eq!(Control::decode(&good[..length]), Err(Unreadable::Short));
        }
        for (at, value) in [(0, 0x10), (0, 0x13), (0, 0x22), (12, 0), (12, 3), (13, 1), (15, 1)] {
            let mut bytes = good;
            bytes[at] = value;
            assert!(matches!(Control::decode(&bytes), Err(Unreadable::Version(_))), "{value} at {at}");
        }
        let long = [&good[..], &[0]].concat();
        assert!(Control::decode(&long).is_err(), "an answer is never larger than what it answers");
    }
}
