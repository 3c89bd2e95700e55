//! What stands before each inner packet.
//!
//! ```text
//!  0        1                          4                                            12
//!  ├────┬───┼──────────────────────────┼────────────────────────────────────────────┤
//!  │ 1  │ 0P│ VNI                      │ key of the receiver                        │ inner IP packet …
//!  └────┴───┴──────────────────────────┴────────────────────────────────────────────┘
//!  version 4 bits, flags 4 bits; P: the inner checksum is the pseudo-header's only
//! ```

use loden_proto::model::{Key, Vni};

/// Bytes of the header.
pub const LENGTH: usize = 12;
/// The only version there is.
const VERSION: u8 = 1;
const PARTIAL: u8 = 0b0001;

/// A header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The network, as the receiver knows it.
    pub vni: Vni,
    /// Of the receiver.
    pub key: Key,
    /// Whether the checksum field of TCP or UDP holds the pseudo-header's sum and nothing else: the outer checksum
    /// has protected the packet, and who delivers it completes the inner one.
    pub partial: bool,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unreadable {
    /// Fewer bytes than a header has.
    #[error("the datagram is shorter than a header of {LENGTH} bytes")]
    Short,
    /// Another version, or a flag that this one does not know.
    #[error("version and flags are {0:#04x}, known is version {VERSION} with flag {PARTIAL:#03x}")]
    Version(u8),
    /// Not a VNI.
    #[error("the VNI is 0")]
    Vni,
    /// Nobody's key.
    #[error("the key is 0")]
    Key,
}

impl Header {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&self.vni.get().to_be_bytes());
        bytes[0] = VERSION << 4 | if self.partial { PARTIAL } else { 0 };
        bytes[4..].copy_from_slice(&self.key.get().to_be_bytes());
        bytes
    }

    /// From the beginning of a datagram; answers the rest as well.
    ///
    /// # Errors
    /// It does not begin with a header of this version.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), Unreadable> {
        let (bytes, packet) = datagram.split_first_chunk::<LENGTH>().ok_or(Unreadable::Short)?;
        let [first, vni @ .., k0, k1, k2, k3, k4, k5, k6, k7] = *bytes;
        if first & !PARTIAL != VERSION << 4 {
            return Err(Unreadable::Version(first));
        }
        let vni = u32::from_be_bytes([0, vni[0], vni[1], vni[2]]);
        let header = Self {
            vni: Vni::try_from(vni).map_err(|_| Unreadable::Vni)?,
            key: Key::try_from(u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]))
                .map_err(|_| Unreadable::Key)?,
            partial: first & PARTIAL != 0,
        };
        Ok((header, packet))
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::model::Family;

    use super::*;

    #[test]
    fn the_overhead_is_ip_udp_and_this_header() {
        for (family, ip) in [(Family::V4, 20), (Family::V6, 40)] {
            assert_eq!(family.udp_overhead(), ip + 8 + LENGTH as u32);
        }
    }

    #[test]
    fn every_byte_is_where_the_picture_has_it() {
        let (vni, key) = (Vni::try_from(0x01_0203).unwrap(), Key::try_from(0x1122_3344_5566_7788).unwrap());
        let header = Header { vni, key, partial: true };
        let mut bytes = header.encode().to_vec();
        assert_eq!(bytes, [0x11, 1, 2, 3, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
        bytes.extend([0x45, 0]);
        assert_eq!(Header::decode(&bytes), Ok((header, &[0x45, 0][..])));
    }

    #[test]
    fn what_is_no_header_of_this_version_is_refused_with_the_reason() {
        let (vni, key) = (Vni::try_from(7).unwrap(), Key::try_from(1).unwrap());
        let good = Header { vni, key, partial: false }.encode();
        assert!(Header::decode(&good).is_ok());
        for length in 0..LENGTH {
            assert_eq!(Header::decode(&good[..length]), Err(Unreadable::Short));
        }
        for first in (0..=u8::MAX).filter(|first| ![0x10, 0x11].contains(first)) {
            let mut bytes = good;
            bytes[0] = first;
            assert_eq!(Header::decode(&bytes), Err(Unreadable::Version(first)));
        }
        let mut bytes = good;
        bytes[3] = 0;
        assert_eq!(Header::decode(&bytes), Err(Unreadable::Vni));
        let mut bytes = good;
        bytes[11] = 0;
        assert_eq!(Header::decode(&bytes), Err(Unreadable::Key));
    }
}
