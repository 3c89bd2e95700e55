//! What observers are told: the frames of everybody else, without the keys of receivers.

use bytes::{BufMut, Bytes, BytesMut};
use loden_proto::convert::mask_keys;
use loden_proto::v1::{WatchPeersResponse, watch_peers_response::Update};
use prost::Message;

/// The flag and length before a message.
const PREFIX: usize = 5;

/// A frame for those who are no peers: itself, unless there is a key in it.
pub(super) fn masked(frame: Bytes) -> Bytes {
    // Invariant: the frame is of our own making. What is not understood is not handed out.
    let mut message = WatchPeersResponse::decode(&frame[PREFIX..]).expect("our own message can be read");
    let peers = match &mut message.update {
        Some(Update::Snapshot(page)) => &mut page.peers,
        Some(Update::Delta(delta)) => &mut delta.upserts,
        Some(Update::Heartbeat(_)) | None => return frame,
    };
    let endpoints = peers.iter_mut().filter_map(|peer| peer.endpoint.as_mut());
    if endpoints.map(mask_keys).filter(|masked| *masked).count() == 0 {
        return frame;
    }
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    // Not longer than it was.
    out.put_u32(length as u32);
    message.encode_raw(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use loden_proto::v1;

    use super::*;

    fn frame(update: Update) -> Bytes {
        let message = WatchPeersResponse { update: Some(update), resume_token: b"token".to_vec() };
        let content = message.encode_to_vec();
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[0][..], &length, &content].concat().into()
    }

    /// Three peers, of which the second has no key.
    fn peers(key: u64) -> Vec<v1::Peer> {
        let peer = |node: &str, key| {
            let family = v1::AddressFamily::Ipv4.into();
            let udp = v1::UdpReceiver { family, vni: 7, port: 8285, key, mtu: 1460 };
            let receivers = vec![v1::Receiver { kind: Some(v1::receiver::Kind::Udp(udp)) }];
            let address_v4 = "192.0.2.1".to_owned();
            let endpoint = Some(v1::Endpoint { address_v4, receivers, ..v1::Endpoint::default() });
            v1::Peer { node: node.to_owned(), subnets: vec!["10.1.1.0/24".to_owned()], endpoint }
        };
        vec![peer("a", key), peer("b", 0), peer("c", key)]
    }

    #[test]
    fn of_all_that_peers_are_told_observers_get_everything_but_keys() {
        let snapshot = |key| {
            let network = Some(v1::Network { name: "networks/blue".to_owned(), ..v1::Network::default() });
            Update::Snapshot(v1::SnapshotPage { peers: peers(key), last: true, network, adopting: true })
        };
        let delta = |key| {
            let removed = vec!["d".to_owned()];
            Update::Delta(v1::Delta { upserts: peers(key), removed, last: true, network: None })
        };
        for (with, without) in [(snapshot(u64::MAX), snapshot(0)), (delta(u64::MAX), delta(0))] {
            let without = frame(without);
            assert_eq!(masked(frame(with)), without);
            assert_eq!(
                masked(without.clone()).as_ptr(),
                without.as_ptr(),
                "as it is where there is nothing to hide"
            );
        }
        let heartbeat = frame(Update::Heartbeat(v1::Heartbeat::default()));
        assert_eq!(masked(heartbeat.clone()).as_ptr(), heartbeat.as_ptr());
    }
}
