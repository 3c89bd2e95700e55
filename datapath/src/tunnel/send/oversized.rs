//! Packets that are too long for the way to their peer.

use std::io::IoSlice;

use loden_proto::model::Mtu;

use super::super::counters::Loss;
use super::super::fragment::{self, Fragments};
use super::super::icmp::Problem;
use super::super::inner::{self, Inner};
use super::super::segment::Cut;
use super::super::vnet::{self, Work};
use super::super::{ecn::Ecn, header, port::Datagrams};
use super::{Room, Sender, Way};

impl Sender {
    /// Cuts what may be cut, and says of all else that it is too long: once for a super-packet.
    pub(super) fn oversized(&self, bytes: &mut [u8], work: Work, way: &Way<'_>, room: &mut Room<'_>) {
        let most = way.remote.path.inner_mtu();
        let packet = &mut bytes[vnet::LENGTH..];
        // Whether it may be cut depends on its header only.
        if Fragments::new(packet, most.into()).is_none() {
            if let Ok(inner) = Inner::parse(packet) {
                let count = match work {
                    Work::Cut(offload) => Cut::new(inner, offload).map_or(1, |cut| cut.count()),
                    Work::Nothing | Work::Checksum { .. } => 1,
                };
                self.counters.add_lost(Loss::TooBig, count);
                // No IPv6 host takes less for an answer (RFC 8200 §5).
                let said = if inner.is_v4() { most } else { most.max(Mtu::MIN_V6 as u16) };
                room.told.tell(&inner, Problem::TooBig(said), &self.device, &self.counters);
            }
            return;
        }
        match work {
            Work::Nothing => self.fragments(packet, way),
            Work::Checksum { start, offset } => match inner::complete_checksum(packet, start, offset) {
                Ok(()) => self.fragments(packet, way),
                Err(_) => self.counters.add_lost(Loss::Unsendable, 1),
            },
            Work::Cut(offload) => {
                let cut = Inner::parse(packet).and_then(|inner| Cut::new(inner, offload));
                let Ok(cut) = cut else { return self.counters.add_lost(Loss::Unsendable, 1) };
                for index in 0..cut.count() {
                    let Some(head) = room.heads[0][header::LENGTH..].first_chunk_mut() else { break };
                    let Some(segment) = cut.segment(index, head) else { break };
                    segment.complete(head, offload);
                    room.whole.clear();
                    room.whole.extend_from_slice(&head[..segment.head]);
                    room.whole.extend_from_slice(segment.payload);
                    self.fragments(&room.whole, way);
                }
            }
        }
    }

    /// Sends a packet, whose checksums are complete, in fragments.
    fn fragments(&self, packet: &[u8], way: &Way<'_>) {
        let Some(mut fragments) = Fragments::new(packet, way.remote.path.inner_mtu().into()) else { return };
        let header = way.header(false);
        let mut head = [0; fragment::HEAD];
        while let Some((length, payload)) = fragments.next(&mut head) {
            let bytes = [IoSlice::new(&header), IoSlice::new(&head[..length]), IoSlice::new(payload)];
            let segment = header::LENGTH + length + payload.len();
            let _ = self.send(way, Datagrams { bytes: &bytes, segment, mark: Ecn::of(packet) }, 1);
        }
    }
}
