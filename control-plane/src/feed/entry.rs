//! A peer, encoded once for everybody who is told of it.
//!
//! An entry is the whole field: key, length, message. `SnapshotPage.peers` and `Delta.upserts` are both
//! field 1, so the same bytes serve both, and a message is a concatenation of entries.

use bytes::{BufMut, Bytes, BytesMut};
use loden_proto::model::{Network, Peer};
use loden_proto::v1;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Number of the field of peers in `SnapshotPage` and in `Delta`.
const PEERS: u32 = 1;

/// A peer as a field of a snapshot page or delta.
pub(super) fn peer(peer: &Peer) -> Bytes {
    let message = v1::Peer::from(peer);
    let len = message.encoded_len();
    let mut entry = BytesMut::with_capacity(key_len(PEERS) + encoded_len_varint(len as u64) + len);
    encode_key(PEERS, WireType::LengthDelimited, &mut entry);
    encode_varint(len as u64, &mut entry);
    message.encode_raw(&mut entry);
    entry.freeze()
}

/// A network as a message, without the key of a field: pages and deltas number it differently.
pub(super) fn network(network: &Network) -> Bytes {
    v1::Network::from(network).encode_to_vec().into()
}

/// Appends a field that has a length: a message, text or bytes.
pub(super) fn put_field(out: &mut impl BufMut, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.put_slice(content);
}

/// Appends a field that is `true`.
pub(super) fn put_true(out: &mut impl BufMut, number: u32) {
    encode_key(number, WireType::Varint, out);
    encode_varint(1, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::testing::a_peer;

    #[test]
    fn one_encoding_serves_pages_and_deltas() {
        let (a, b) = (a_peer("a", 1), a_peer("b", 2));
        let both = [peer(&a), peer(&b)].concat();
        let wire = vec![v1::Peer::from(&a), v1::Peer::from(&b)];
        assert_eq!(v1::SnapshotPage::decode(both.as_slice()).unwrap().peers, wire);
        assert_eq!(v1::Delta::decode(both.as_slice()).unwrap().upserts, wire);
    }
}
