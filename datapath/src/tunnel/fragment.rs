//! Cuts an IPv4 packet into fragments (RFC 791 §3.2).

use super::bytes::{low16, put, word};
use super::checksum;

/// Room for the header of a fragment.
pub const HEAD: usize = 60;
/// Bytes of a header without options.
const FIXED: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Of the kind of an option: it stands in each fragment.
const COPIED: u8 = 0x80;

/// A packet that is too long, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Fragments<'a> {
    /// Header and payload of the packet.
    head: &'a [u8],
    payload: &'a [u8],
    /// The header of all fragments but the first.
    later: [u8; HEAD],
    later_length: usize,
    most: usize,
    /// Bytes of payload that are in fragments already.
    done: usize,
}

impl<'a> Fragments<'a> {
    /// Looks at a whole packet; `most`: bytes that a fragment may have. `None`: it is not IPv4, or must not or cannot
    /// be cut.
    #[must_use]
    pub fn new(packet: &'a [u8], most: usize) -> Option<Self> {
        if packet.len() < FIXED || packet[0] >> 4 != 4 || word(packet, 6) & DONT_FRAGMENT != 0 {
            return None;
        }
        let length = usize::from(packet[0] & 0xf) * 4;
        if length < FIXED || packet.len() < length || most < length + 8 {
            return None;
        }
        let (head, payload) = packet.split_at(length);
        let mut later = [0; HEAD];
        let later_length = copy_options(head, &mut later);
        Some(Self { head, payload, later, later_length, most, done: 0 })
    }

    /// Writes the header of the next fragment; answers how long it is, and the payload behind it.
    pub fn next(&mut self, to: &mut [u8; HEAD]) -> Option<(usize, &'a [u8])> {
        let rest = self.payload.get(self.done..).filter(|rest| !rest.is_empty())?;
        let head = if self.done == 0 { self.head } else { &self.later[..self.later_length] };
        let room = self.most - head.len();
        let is_last = rest.len() <= room;
        let payload = if is_last { rest } else { &rest[..room & !7] };
        let length = head.len();
        to[..length].copy_from_slice(head);
        put(to, 2, low16(length + payload.len()));
        let before = word(self.head, 6);
        // A fragment that is cut again begins where it began, and the last of it is what it was.
        let offset = (before & OFFSET).wrapping_add(low16(self.done / 8)) & OFFSET;
        let more = if is_last { before & MORE } else { MORE };
        put(to, 6, before & !(MORE | OFFSET) | more | offset);
        put(to, 10, 0);
        let sum = checksum::of(checksum::add(0, &to[..length]));
        put(to, 10, sum);
        self.done += payload.len();
        Some((length, payload))
    }
}

/// Writes a header with those options only that are in each fragment; answers its length.
fn copy_options(head: &[u8], to: &mut [u8; HEAD]) -> usize {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    to[..FIXED].copy_from_slice(&head[..FIXED]);
    let mut end = FIXED;
    let mut options = &head[FIXED..];
    while let [kind, rest @ ..] = options
        && *kind != END
    {
        let length = match (*kind, rest.first()) {
            (NOTHING, _) => 1,
            (_, Some(length)) => usize::from(*length),
            (_, None) => break,
        };
        // What cannot be read ends them.
        let Some((option, behind)) = options.split_at_checked(length).filter(|_| length > 0) else { break };
        if kind & COPIED != 0 {
            to[end..end + length].copy_from_slice(option);
            end += length;
        }
        options = behind;
    }
    // Filled up with ends of options.
    let length = end.next_multiple_of(4);
    to[end..length].fill(END);
    to[0] = 0x40 | low16(length / 4) as u8;
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(options: &[u8], payload: &[u8], flags: u16) -> Vec<u8> {
        let length = FIXED + options.len();
        let mut packet = vec![0; FIXED];
        packet[0] = 0x40 | u8::try_from(length / 4).unwrap();
        put(&mut packet, 4, 0x1234);
        put(&mut packet, 6, flags);
        packet[8..20].copy_from_slice(&[64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1]);
        packet.extend(options);
        packet.extend(payload);
        let total = low16(packet.len());
        put(&mut packet, 2, total);
        packet
    }

    fn cut(packet: &[u8], most: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(packet, most).unwrap();
        let mut head = [0; HEAD];
        std::iter::from_fn(|| {
            fragments.next(&mut head).map(|(length, payload)| [&head[..length], payload].concat())
        })
        .collect()
    }

    proptest! {
        #[test]
        fn the_payload_is_put_together_again(
            payload in prop::collection::vec(any::<u8>(), 1..5000),
            words in 0_usize..=10,
            most in 68_usize..2000,
            start in 0_u16..100,
            more in any::<bool>(),
        ) {
            let flags = start | if more { MORE } else { 0 };
            // A fragment that is not the last has a multiple of eight.
            let length = if more { payload.len().next_multiple_of(8) } else { payload.len() };
            let mut payload = payload;
            payload.resize(length, 7);
            let whole = packet(&vec![1; words * 4], &payload, flags);
            let mut seen = Vec::<u8>::new();
            let fragments = cut(&whole, most);
            for (index, fragment) in fragments.iter().enumerate() {
                let head = usize::from(fragment[0] & 0xf) * 4;
                prop_assert!(fragment.len() <= most);
                prop_assert_eq!(usize::from(word(fragment, 2)), fragment.len());
                prop_assert_eq!(checksum::fold(checksum::add(0, &fragment[..head])), u16::MAX);
                prop_assert_eq!(usize::from(word(fragment, 6) & OFFSET), usize::from(start) + seen.len() / 8);
                prop_assert_eq!(seen.len() % 8, 0);
                let is_last = index + 1 == fragments.len();
                prop_assert_eq!(word(fragment, 6) & MORE != 0, !is_last || more);
                prop_assert_eq!(&fragment[4..6], &whole[4..6]);
                prop_assert_eq!(&fragment[12..20], &whole[12..20]);
                seen.extend(&fragment[head..]);
            }
            prop_assert_eq!(seen, payload);
        }

        #[test]
        fn nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), most in 0_usize..100) {
            if let Some(first) = bytes.first_mut() {
                *first = 0x40 | *first & 0xf;
            }
            if let Some(mut fragments) = Fragments::new(&bytes, most) {
                let mut head = [0; HEAD];
                while fragments.next(&mut head).is_some() {}
            }
        }
    }

    #[test]
    fn later_fragments_have_the_options_that_are_copied() {
        // Record route (not copied), nothing, stream identifier (copied), end.
        let options = [7, 3, 4, 1, 0x88, 4, 0xab, 0xcd, 0, 0, 0, 0];
        let fragments = cut(&packet(&options, &[5; 100], 0), 72);
        assert_eq!(fragments[0][20..32], options);
        assert_eq!(fragments[0][0], 0x48);
        for later in &fragments[1..] {
            assert_eq!(later[0], 0x46);
            assert_eq!(later[20..24], [0x88, 4, 0xab, 0xcd]);
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert!(Fragments::new(&packet(&[], &[0; 100], DONT_FRAGMENT), 80).is_none());
        assert!(Fragments::new(&packet(&[], &[0; 100], 0), 27).is_none());
        let mut v6 = packet(&[], &[0; 100], 0);
        v6[0] = 0x60;
        assert!(Fragments::new(&v6, 80).is_none());
    }
}
