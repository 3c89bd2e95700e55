//! The messages of a watch, read without decoding what everybody is told of everybody: ten thousand followers get
//! a hundred million entries.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What gRPC puts before a message, in bytes.
const PREFIX: usize = 5;

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Snapshot,
    Delta,
    Heartbeat,
}

/// A message, as far as it was read.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) token: Bytes,
}

/// Takes the first whole message out of what has come.
pub(super) fn take(come: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    let Some((&[compressed, a, b, c, d], _)) = come.split_first_chunk() else { return Ok(None) };
    ensure!(compressed == 0, "a message is compressed");
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if come.len() < PREFIX + length {
        come.reserve(PREFIX + length - come.len());
        return Ok(None);
    }
    come.advance(PREFIX);
    Ok(Some(come.split_to(length).freeze()))
}

/// Reads a message: `upsert` gets the bytes of each peer that is new or changed, `removed` the name of each that
/// is gone.
pub(super) fn read(
    mut message: Bytes,
    mut upsert: impl FnMut(Bytes),
    mut removed: impl FnMut(&[u8]),
) -> anyhow::Result<Message> {
    let (mut kind, mut token) = (None, Bytes::new());
    while message.has_remaining() {
        let (tag, wire) = decode_key(&mut message)?;
        match tag {
            1 | 2 => {
                let is_snapshot = tag == 1;
                kind = Some(if is_snapshot { Kind::Snapshot } else { Kind::Delta });
                let mut page = part(&mut message, wire)?;
                while page.has_remaining() {
                    let (tag, wire) = decode_key(&mut page)?;
                    match tag {
                        1 => upsert(part(&mut page, wire)?),
                        2 if !is_snapshot => removed(&part(&mut page, wire)?),
                        _ => skip_field(wire, tag, &mut page, DecodeContext::default())?,
                    }
                }
            }
            3 => {
                kind = Some(Kind::Heartbeat);
                part(&mut message, wire)?;
            }
            4 => token = part(&mut message, wire)?,
            _ => skip_field(wire, tag, &mut message, DecodeContext::default())?,
        }
    }
    Ok(Message { kind: kind.context("a message says nothing")?, token })
}

/// The name in a peer's bytes: its first field.
pub(super) fn name(mut peer: Bytes) -> anyhow::Result<Bytes> {
    match decode_key(&mut peer)? {
        (1, wire) => part(&mut peer, wire),
        (tag, _) => bail!("a peer begins with field {tag}"),
    }
}

fn part(from: &mut Bytes, wire: WireType) -> anyhow::Result<Bytes> {
    ensure!(wire == WireType::LengthDelimited, "a field is no text and no message");
    let length = usize::try_from(decode_varint(from)?)?;
    ensure!(length <= from.len(), "a field is cut off");
    Ok(from.split_to(length))
}

#[cfg(test)]
mod tests {
    use loden_proto::v1;
    use loden_proto::v1::watch_peers_response::Update;
    use prost::Message as _;

    use super::*;
    use crate::client::raw::framed;

    fn told(update: Update) -> (Message, Vec<Bytes>, Vec<Vec<u8>>) {
        let wire = v1::WatchPeersResponse { update: Some(update), resume_token: b"t".to_vec() };
        let (mut upserts, mut gone) = (Vec::new(), Vec::new());
        let bytes = Bytes::from(wire.encode_to_vec());
        let message = read(bytes, |peer| upserts.push(peer), |name| gone.push(name.to_vec())).unwrap();
        (message, upserts, gone)
    }

    #[test]
    fn each_kind_is_read_as_prost_has_written_it() {
        let peers = ["a", "b"].map(|node| v1::Peer {
            node: node.to_owned(),
            subnets: vec!["10.0.0.0/24".to_owned()],
            endpoint: None,
        });
        let page = v1::SnapshotPage { peers: peers.to_vec(), last: true, ..Default::default() };
        let (message, upserts, _) = told(Update::Snapshot(page));
        assert_eq!(message, Message { kind: Kind::Snapshot, token: Bytes::from_static(b"t") });
        assert_eq!(upserts.iter().map(|peer| name(peer.clone()).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(v1::Peer::decode(upserts[1].clone()).unwrap(), peers[1]);

        let delta = v1::Delta { removed: vec!["c".to_owned()], last: true, ..Default::default() };
        let (message, upserts, gone) = told(Update::Delta(delta));
        assert_eq!((message.kind, upserts.len(), gone), (Kind::Delta, 0, vec![b"c".to_vec()]));
        assert_eq!(told(Update::Heartbeat(v1::Heartbeat::default())).0.kind, Kind::Heartbeat);
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let framed = framed(&v1::SnapshotPage { last: true, ..Default::default() });
        let mut come = BytesMut::new();
        for (index, byte) in framed.iter().enumerate() {
            assert_eq!(take(&mut come).unwrap(), None, "after {index} bytes");
            come.extend_from_slice(&[*byte]);
        }
        assert_eq!(take(&mut come).unwrap().unwrap(), framed[PREFIX..]);
        assert!(come.is_empty());
    }
}
