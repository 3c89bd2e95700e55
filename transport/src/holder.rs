//! Whose a certificate is, of which identity epoch and trust generation, and how long it lasts.
//!
//! ```text
//! serial number (RFC 5280 §4.1.2.2): "Lodn" │ epoch, 4 bytes │ trust generation, 4 bytes │ 8 random bytes
//! ```

use std::time::{Duration, SystemTime};

use loden_proto::model::RootHash;
use x509_parser::parse_x509_certificate;

use crate::spiffe::{IdentityError, SpiffeId};

/// How our serial numbers begin: positive in DER, and nobody else's by chance.
const MARK: [u8; 4] = *b"Lodn";
/// How far back certificates are dated, for clocks that are behind.
pub const BACK_DATED: Duration = Duration::from_secs(5 * 60);
/// Random bytes of a serial number.
pub const SERIAL_RANDOM: usize = 8;

/// The owner of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Who it is.
    pub id: SpiffeId,
    /// In which identity epoch of a node it was made. 0 in certificates without one.
    pub epoch: u32,
    /// Which CAs were told to be trusted with it. 0 in certificates without one.
    pub generation: u32,
    /// Whose CA has made it: SHA-256 of that one's public key. None until somebody has verified it.
    pub root: Option<RootHash>,
    /// From when it is good.
    pub begins: SystemTime,
    /// Until when.
    pub expires: SystemTime,
}

impl Holder {
    /// Whose an X.509 certificate (DER) is.
    ///
    /// # Errors
    /// As [`SpiffeId::of_certificate`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let id = SpiffeId::of_certificate(der)?;
        let (_, certificate) =
            parse_x509_certificate(der).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let (epoch, generation) = parts_of(certificate.raw_serial());
        let validity = certificate.validity();
        let time = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        Ok(Self {
            id,
            epoch,
            generation,
            root: None,
            begins: time(validity.not_before),
            expires: time(validity.not_after),
        })
    }

    /// When the certificate was made.
    #[must_use]
    pub fn made(&self) -> SystemTime {
        self.begins + BACK_DATED
    }

    /// How long it is good from then on.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.expires.duration_since(self.made()).unwrap_or_default()
    }
}

/// The serial number of a certificate of an identity epoch and a trust generation; never the same twice.
#[must_use]
pub fn serial(epoch: u32, generation: u32, random: [u8; SERIAL_RANDOM]) -> [u8; 20] {
    let mut serial = [0; 20];
    let (mark, rest) = serial.split_at_mut(MARK.len());
    mark.copy_from_slice(&MARK);
    rest[..4].copy_from_slice(&epoch.to_be_bytes());
    rest[4..8].copy_from_slice(&generation.to_be_bytes());
    rest[8..].copy_from_slice(&random);
    serial
}

fn parts_of(serial: &[u8]) -> (u32, u32) {
    match serial.strip_prefix(&MARK) {
        Some(&[a, b, c, d, e, f, g, h, ref random @ ..]) if random.len() == SERIAL_RANDOM => {
            (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_and_generation_are_in_the_serial_number_and_others_have_none() {
        for epoch in [0, 1, 0x0102_0304, u32::MAX] {
            assert_eq!(parts_of(&serial(epoch, !epoch, [0xff; SERIAL_RANDOM])), (epoch, !epoch));
        }
        assert_eq!(parts_of(&serial(7, 7, [0; SERIAL_RANDOM])[..19]), (0, 0));
        assert_eq!(parts_of(&[1; 20]), (0, 0));
        assert_eq!(parts_of(&[b'L'; 20]), (0, 0), "another tool's, by chance");
        assert_eq!(parts_of(&[]), (0, 0));
    }
}
