//! What a netlink datagram is made of: messages, and their attributes.

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;

use crate::Error;

/// Bytes of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Kinds that the crate does not always read: a host may have links of any
/// kind, ours can be read.
const UNREAD: [u16; 2] = [libc::RTM_NEWLINK, libc::RTM_DELLINK];

/// A message as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u16,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// What follows the header.
    pub(super) fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }

    /// `None`: it cannot be read and need not.
    ///
    /// # Errors
    /// When it cannot be read and may be anything.
    pub(super) fn message(&self) -> Result<Option<NetlinkMessage<RouteNetlinkMessage>>, Error> {
        match NetlinkMessage::deserialize(self.bytes) {
            Ok(message) => Ok(Some(message)),
            Err(error) if UNREAD.contains(&self.kind) => {
                tracing::trace!(%error, kind = self.kind, "a message was not read");
                Ok(None)
            }
            Err(error) => Err(Error::Decode(error.to_string())),
        }
    }
}

/// The messages of a datagram.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Error>> {
    std::iter::from_fn(move || {
        let header: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if length < HEADER || length > bytes.len() {
            bytes = &[];
            return Some(Err(Error::Decode("a message is longer than its datagram".to_owned())));
        }
        let frame = Frame { kind, bytes: &bytes[..length] };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(Ok(frame))
    })
}

/// The messages of a datagram, read. `None`: one that cannot be read and need not.
pub(super) fn messages(
    bytes: &[u8],
) -> impl Iterator<Item = Result<Option<NetlinkMessage<RouteNetlinkMessage>>, Error>> + '_ {
    frames(bytes).map(|frame| frame?.message())
}

/// Attributes (`struct nlattr`), each with its kind and value; those after a torn one are lost.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Without the flags.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Messages and attributes begin at multiples of four.
pub(super) const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_datagram_is_an_error_not_a_panic() {
        let mut bytes = vec![0u8; 20];
        bytes[..4].copy_from_slice(&400u32.to_ne_bytes());
        let all: Vec<_> = messages(&bytes).collect();
        assert!(matches!(all.as_slice(), [Err(Error::Decode(_))]));
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn torn_attributes_end_the_list() {
        for torn in [&[][..], &[255, 255, 1, 0], &[0, 0, 1, 0], &[1, 2, 3]] {
            assert_eq!(attributes(torn).count(), 0, "{torn:?}");
        }
    }
}
