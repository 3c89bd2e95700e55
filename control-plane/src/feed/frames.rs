//! Messages of a watch as gRPC frames, put together from entries.
//!
//! ```text
//!  frame   = 0 (not compressed), length u32 BE, WatchPeersResponse       (gRPC over HTTP/2)
//!  message = update { entries…, tail }, resume_token
//! ```

use std::ops::Range;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use loden_proto::names::NodeId;
use loden_proto::v1;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::entry::{put_field, put_true};

/// Most bytes of entries in a page of a snapshot.
const PAGE_BYTES: usize = 32 << 10;
/// Most bytes of entries in a page of a delta.
const DELTA_BYTES: usize = 1 << 20;
/// The flag and length before a message.
const PREFIX: usize = 5;

/// Field numbers of `WatchPeersResponse`.
#[derive(Clone, Copy)]
enum Update {
    Snapshot = 1,
    Delta = 2,
    Heartbeat = 3,
}
const RESUME_TOKEN: u32 = 4;

/// A page of a snapshot, ready to send to whoever is not in it.
#[derive(Debug)]
struct Page {
    frame: Bytes,
    /// Where in the frame the entries are.
    entries: Range<usize>,
    /// Where in the frame each node's entry begins, by node.
    nodes: Vec<(NodeId, usize)>,
    tail: Bytes,
    token: Option<Bytes>,
}

/// The whole set of peers, encoded once.
#[derive(Debug)]
pub(super) struct Snapshot {
    pages: Vec<Page>,
}

impl Snapshot {
    /// Cuts a set into pages. `network` is the encoded message.
    pub(super) fn new<'a>(
        entries: impl Iterator<Item = (&'a NodeId, &'a Bytes)>,
        network: &[u8],
        adopting: bool,
        token: &Bytes,
    ) -> Self {
        let mut pages = Vec::new();
        let mut nodes = Vec::new();
        let mut body = Vec::with_capacity(PAGE_BYTES);
        for (node, entry) in entries {
            if !body.is_empty() && body.len() + entry.len() > PAGE_BYTES {
                pages.push(Page::new(&body, std::mem::take(&mut nodes), Bytes::new(), None));
                body.clear();
            }
            nodes.push((node.clone(), body.len()));
            body.extend_from_slice(entry);
        }
        let mut tail = BytesMut::new();
        put_true(&mut tail, 2);
        put_field(&mut tail, 3, network);
        if adopting {
            put_true(&mut tail, 4);
        }
        pages.push(Page::new(&body, nodes, tail.freeze(), Some(token.clone())));
        Self { pages }
    }

    /// The frames for a viewer, without its own entry.
    pub(super) fn frames<'a>(&'a self, viewer: Option<&'a NodeId>) -> impl Iterator<Item = Bytes> + 'a {
        self.pages.iter().map(move |page| {
            let own = viewer.and_then(|viewer| page.find(viewer));
            own.map_or_else(|| page.frame.clone(), |own| page.without(own))
        })
    }
}

impl Page {
    fn new(body: &[u8], mut nodes: Vec<(NodeId, usize)>, tail: Bytes, token: Option<Bytes>) -> Self {
        let frame = frame(Update::Snapshot, &[body, &tail], token.as_deref());
        let after = tail.len() + token.as_ref().map_or(0, |token| field_len(RESUME_TOKEN, token.len()));
        let end = frame.len() - after;
        let start = end - body.len();
        for (_, offset) in &mut nodes {
            *offset += start;
        }
        Self { frame, entries: start..end, nodes, tail, token }
    }

    fn find(&self, node: &NodeId) -> Option<Range<usize>> {
        let index = self.nodes.binary_search_by(|(other, _)| other.cmp(node)).ok()?;
        let end = self.nodes.get(index + 1).map_or(self.entries.end, |(_, start)| *start);
        Some(self.nodes[index].1..end)
    }

    fn without(&self, own: Range<usize>) -> Bytes {
        let before = &self.frame[self.entries.start..own.start];
        let after = &self.frame[own.end..self.entries.end];
        frame(Update::Snapshot, &[before, after, &self.tail], self.token.as_deref())
    }
}

/// A delta as frames; more than one above 1 MiB, and only the last one carries the token.
pub(super) fn delta<'a>(
    peers: impl Iterator<Item = (&'a NodeId, &'a Option<Bytes>)>,
    network: Option<&[u8]>,
    token: &[u8],
) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut body = Vec::new();
    for (node, entry) in peers {
        let len = entry.as_ref().map_or_else(|| field_len(2, node.as_str().len()), Bytes::len);
        if !body.is_empty() && body.len() + len > DELTA_BYTES {
            frames.push(frame(Update::Delta, &[&body], None));
            body.clear();
        }
        match entry {
            Some(entry) => body.extend_from_slice(entry),
            None => put_field(&mut body, 2, node.as_str().as_bytes()),
        }
    }
    put_true(&mut body, 3);
    if let Some(network) = network {
        put_field(&mut body, 4, network);
    }
    frames.push(frame(Update::Delta, &[&body], Some(token)));
    frames
}

/// A sign of life.
pub(super) fn heartbeat(interval: Duration, adopting: bool, token: &[u8]) -> Bytes {
    let message = v1::Heartbeat { interval: interval.try_into().ok(), adopting };
    frame(Update::Heartbeat, &[&message.encode_to_vec()], Some(token))
}

fn frame(update: Update, parts: &[&[u8]], token: Option<&[u8]>) -> Bytes {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let message =
        field_len(update as u32, body) + token.map_or(0, |token| field_len(RESUME_TOKEN, token.len()));
    let mut out = BytesMut::with_capacity(PREFIX + message);
    out.put_u8(0);
    // Pages are at most a MiB and a network record.
    out.put_u32(message as u32);
    encode_key(update as u32, WireType::LengthDelimited, &mut out);
    encode_varint(body as u64, &mut out);
    for part in parts {
        out.put_slice(part);
    }
    if let Some(token) = token {
        put_field(&mut out, RESUME_TOKEN, token);
    }
    out.freeze()
}

fn field_len(number: u32, content: usize) -> usize {
    key_len(number) + encoded_len_varint(content as u64) + content
}

#[cfg(test)]
mod tests {
    use v1::watch_peers_response::Update as Wire;

    use super::*;
    use crate::feed::entry;
    use crate::feed::testing::{a_network, a_peer};

    fn decode(frames: impl IntoIterator<Item = Bytes>) -> Vec<v1::WatchPeersResponse> {
        let decode = |frame: Bytes| {
            assert_eq!(frame[0], 0);
            assert_eq!(frame[1..5], u32::try_from(frame.len() - 5).unwrap().to_be_bytes());
            v1::WatchPeersResponse::decode(&frame[5..]).unwrap()
        };
        frames.into_iter().map(decode).collect()
    }

    fn entries(count: usize) -> Vec<(NodeId, Bytes)> {
        let node = |n: usize| format!("node-{n:05}");
        (0..count).map(|n| (node(n).parse().unwrap(), entry::peer(&a_peer(&node(n), n)))).collect()
    }

    fn peers(messages: &[v1::WatchPeersResponse]) -> Vec<v1::Peer> {
        let peers = messages.iter().flat_map(|message| match message.update.as_ref().unwrap() {
            Wire::Snapshot(page) => page.peers.clone(),
            Wire::Delta(delta) => delta.upserts.clone(),
            Wire::Heartbeat(_) => panic!("a heartbeat has no peers"),
        });
        peers.collect()
    }

    #[test]
    fn a_snapshot_is_whole_in_order_and_its_last_page_says_so() {
        let entries = entries(3000);
        let network = a_network("blue");
        let token = Bytes::from_static(b"token");
        let set = entries.iter().map(|(node, entry)| (node, entry));
        let snapshot = Snapshot::new(set, &entry::network(&network), true, &token);
        let frames: Vec<_> = snapshot.frames(None).collect();
        assert!(frames.len() > 3 && frames.iter().all(|frame| frame.len() < PAGE_BYTES + 512));
        let messages = decode(frames);
        let names: Vec<_> = peers(&messages).into_iter().map(|peer| peer.node).collect();
        assert_eq!(names, entries.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>());
        let (last, early) = messages.split_last().unwrap();
        let Some(Wire::Snapshot(page)) = &last.update else { panic!("{last:?}") };
        assert!(page.last && page.adopting);
        assert_eq!(page.network, Some(v1::Network::from(&network)));
        assert_eq!(last.resume_token, token);
        for message in early {
            let Some(Wire::Snapshot(page)) = &message.update else { panic!("{message:?}") };
            assert!(!page.last && !page.adopting && page.network.is_none());
            assert!(message.resume_token.is_empty());
        }
    }

    #[test]
    fn a_snapshot_for_a_node_lacks_exactly_that_node_wherever_it_is() {
        let entries = entries(900);
        let set = entries.iter().map(|(node, entry)| (node, entry));
        let snapshot = Snapshot::new(set, b"", false, &Bytes::from_static(b"t"));
        let everybody = peers(&decode(snapshot.frames(None)));
        for (node, _) in &entries {
            let mut expected = everybody.clone();
            expected.retain(|peer| peer.node != node.as_str());
            let messages = decode(snapshot.frames(Some(node)));
            assert_eq!(peers(&messages), expected, "{node}");
            assert_eq!(messages.last().unwrap().resume_token, b"t");
        }
        let stranger = "stranger".parse().unwrap();
        assert_eq!(peers(&decode(snapshot.frames(Some(&stranger)))), everybody);
    }

    #[test]
    fn an_empty_snapshot_is_one_last_page() {
        let snapshot = Snapshot::new([].into_iter(), b"", false, &Bytes::new());
        let messages = decode(snapshot.frames(None));
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(matches!(&message.update, Some(Wire::Snapshot(page)) if page.last && page.peers.is_empty()));
    }

    #[test]
    fn a_delta_above_a_mebibyte_is_paged_and_only_the_last_page_has_the_token() {
        let changes: Vec<_> = entries(40_000)
            .into_iter()
            .enumerate()
            .map(|(n, (node, entry))| (node, (n % 5 > 0).then_some(entry)))
            .collect();
        let frames = delta(changes.iter().map(|(node, entry)| (node, entry)), Some(b""), b"t");
        assert!(frames.len() > 1 && frames.iter().all(|frame| frame.len() < DELTA_BYTES + 512));
        let messages = decode(frames);
        assert_eq!(peers(&messages).len(), 32_000);
        let mut removed = 0;
        for (n, message) in messages.iter().enumerate() {
            let Some(Wire::Delta(delta)) = &message.update else { panic!("{message:?}") };
            let last = n + 1 == messages.len();
            removed += delta.removed.len();
            assert_eq!(delta.last, last);
            assert_eq!(delta.network.is_some(), last);
            assert_eq!(message.resume_token, if last { b"t".to_vec() } else { vec![] });
        }
        assert_eq!(removed, 8000);
    }

    #[test]
    fn a_heartbeat_announces_its_interval() {
        let [message] = &decode([heartbeat(Duration::from_millis(3500), true, b"t")])[..] else { panic!() };
        let Some(Wire::Heartbeat(heartbeat)) = &message.update else { panic!("{message:?}") };
        assert_eq!(heartbeat.interval, Some(prost_types::Duration { seconds: 3, nanos: 500_000_000 }));
        assert!(heartbeat.adopting);
        assert_eq!(message.resume_token, b"t");
    }
}
