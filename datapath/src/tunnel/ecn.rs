//! Congestion marks of the outer and of the inner packet (RFC 6040, normal mode).

use super::bytes::{put, word};
use super::checksum;

/// The two bits of a packet's congestion mark.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Ecn {
    /// The ends do not heed marks.
    NotEct = 0b00,
    /// They do.
    Ect1 = 0b01,
    /// They do.
    Ect0 = 0b10,
    /// A router on the way was congested.
    Ce = 0b11,
}

/// A packet was marked on the way whose ends do not heed marks: dropped, it tells them the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it was marked as congested, and its ends do not heed marks")]
pub struct Congested;

impl Ecn {
    /// From the lower two bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// That of a packet of which at least two bytes are there.
    #[must_use]
    pub const fn of(packet: &[u8]) -> Self {
        Self::from_bits(packet[1] >> shift(packet))
    }

    /// What an inner packet has when it leaves the tunnel (RFC 6040, figure 4).
    ///
    /// # Errors
    /// It must not leave it.
    pub const fn leave(self, outer: Self) -> Result<Self, Congested> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => Err(Congested),
            (Self::NotEct, _) => Ok(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Ok(Self::Ce),
            (Self::Ect0, Self::Ect1) => Ok(Self::Ect1),
            (inner, _) => Ok(inner),
        }
    }
}

/// Where the mark is in the second byte.
const fn shift(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 { 4 } else { 0 }
}

/// Gives an inner packet the mark that it leaves the tunnel with. What is too short for a packet is left as it is.
///
/// # Errors
/// It must not leave it.
pub fn leave(packet: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    let least = match packet.first().map(|first| first >> 4) {
        Some(4) => 20,
        Some(6) => 40,
        _ => return Ok(()),
    };
    if packet.len() < least {
        return Ok(());
    }
    let before = Ecn::of(packet);
    let after = before.leave(outer)?;
    if after != before {
        set(packet, after);
    }
    Ok(())
}

/// Changes the mark, and the checksum of an IPv4 header by as much (RFC 1624, equation 3): a wrong one stays wrong.
fn set(packet: &mut [u8], mark: Ecn) {
    let old = word(packet, 0);
    let shift = shift(packet);
    packet[1] = packet[1] & !(0b11 << shift) | (mark as u8) << shift;
    if packet[0] >> 4 == 4 {
        let sum = u64::from(!word(packet, 10)) + u64::from(!old) + u64::from(word(packet, 0));
        put(packet, 10, checksum::of(sum));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::Inner;
    use crate::tunnel::merge::Run;
    use crate::tunnel::testing::supers;

    #[test]
    fn every_pair_is_as_the_rfc_has_it() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        const OUTER: [Ecn; 4] = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), Err(Congested)]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, leaves) in table {
            assert_eq!(OUTER.map(|outer| inner.leave(outer)), leaves, "{inner:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_mark_changes_and_runs_still_merge(whole in supers(), bits in 0_u8..4) {
            let outer = Ecn::from_bits(bits);
            let before = whole.cut();
            let mut after = before.clone();
            for (old, new) in before.iter().zip(&mut after) {
                match Ecn::of(old).leave(outer) {
                    Err(Congested) => {
                        prop_assert_eq!(leave(new, outer), Err(Congested));
                        prop_assert_eq!(&*new, old);
                    }
                    Ok(mark) => {
                        prop_assert_eq!(leave(new, outer), Ok(()));
                        prop_assert_eq!(Ecn::of(new), mark);
                        let mut expected = old.clone();
                        let v4 = old[0] >> 4 == 4;
                        let shift = if v4 { 0 } else { 4 };
                        expected[1] = old[1] & !(3 << shift) | (mark as u8) << shift;
                        if v4 {
                            expected[10..12].fill(0);
                            let sum = checksum::of(checksum::add(0, &expected[..20]));
                            put(&mut expected, 10, sum);
                        }
                        prop_assert_eq!(&*new, &expected);
                    }
                }
            }
            let merged = |packets: &[Vec<u8>]| {
                let mut run = Run::begin(Inner::parse(&packets[0]).unwrap(), true);
                packets[1..].iter().take_while(|packet| run.push(&Inner::parse(packet).unwrap())).count()
            };
            prop_assert_eq!(merged(&before), merged(&after));
        }

        #[test]
        fn nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..60), bits in 0_u8..4) {
            let _ = leave(&mut bytes, Ecn::from_bits(bits));
        }
    }
}
