use proptest::prelude::*;

use super::*;
use crate::tunnel::testing::{Shape, Super, supers};

/// All packets, merged as far as they can be.
fn merged(packets: &[Vec<u8>], partial: bool) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for packet in packets {
        let inner = Inner::parse(packet).unwrap();
        if !runs.last_mut().is_some_and(|run| partial && run.push(&inner)) {
            runs.push(Run::begin(inner, partial));
        }
    }
    runs
}

/// A run as it is written, cut again by the rules of the kernel.
fn cut_again(run: &Run<'_>) -> Vec<Vec<u8>> {
    let mut head = [0; HEAD];
    let Some(merged) = run.merge(&mut head) else { return vec![run.first().packet.to_vec()] };
    let packet = [&head[..merged.head], &run.payloads().concat()].concat();
    Super { packet, offload: merged.offload }.cut()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_was_one_packet_becomes_one_again(whole in supers()) {
        let packets = whole.cut();
        let runs = merged(&packets, true);
        prop_assert_eq!(runs.len(), packets.len().div_ceil(PACKETS));
        if packets.len() > 1 && runs.len() == 1 {
            let mut head = [0; HEAD];
            let merged = runs[0].merge(&mut head).unwrap();
            prop_assert_eq!(merged.offload, whole.offload);
            prop_assert_eq!([&head[..merged.head], &runs[0].payloads().concat()].concat(), whole.packet);
        }
    }

    /// Whatever was lost, repeated, exchanged or changed on the way.
    #[test]
    fn cutting_what_was_merged_gives_exactly_what_came(
        wholes in prop::collection::vec(supers(), 1..4),
        losses in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..80, any::<u8>()), 0..4),
    ) {
        let mut packets: Vec<_> = wholes.iter().flat_map(Super::cut).collect();
        for loss in losses {
            // At least one is left to be changed.
            if packets.len() > 1 {
                packets.remove(loss.index(packets.len()));
            }
        }
        for (one, other) in swaps {
            let (one, other) = (one.index(packets.len()), other.index(packets.len()));
            packets.swap(one, other);
        }
        for (at, byte, value) in changes {
            let at = at.index(packets.len());
            if let Some(byte) = packets[at].get_mut(byte) {
                *byte ^= value;
            }
        }
        packets.retain(|packet| Inner::parse(packet).is_ok());
        let again: Vec<_> = merged(&packets, true).iter().flat_map(cut_again).collect();
        prop_assert_eq!(again, packets);
    }

    #[test]
    fn a_packet_with_a_checksum_of_its_own_stays_alone(whole in supers()) {
        let packets = whole.cut();
        prop_assert_eq!(merged(&packets, false).len(), packets.len());
    }
}

fn shape() -> Shape {
    Shape { v6: false, protocol: Protocol::Tcp, flags: 0x10, id: 5, sequence: 1, tos: 0, options: 12 }
}

#[test]
fn one_bit_of_a_header_that_differs_ends_a_run() {
    let packets = shape().build(&[3; 300], 100).cut();
    assert_eq!(merged(&packets, true).len(), 1);
    for at in 0..52 {
        let mut packets = packets.clone();
        packets[1][at] ^= 1;
        if packets.iter().all(|packet| Inner::parse(packet).is_ok()) {
            assert_ne!(merged(&packets, true).len(), 1, "byte {at} of the second packet");
        }
    }
}

#[test]
fn a_push_ends_a_run_and_an_empty_packet_is_none() {
    let mut pushed = shape();
    pushed.flags = 0x18;
    let mut packets = shape().build(&[3; 200], 100).cut();
    pushed.sequence = 201;
    pushed.id = 7;
    packets.extend(pushed.build(&[3; 100], 100).cut());
    let mut next = shape();
    (next.sequence, next.id) = (301, 8);
    packets.extend(next.build(&[3; 100], 100).cut());
    let runs = merged(&packets, true);
    assert_eq!(runs.iter().map(|run| run.payloads().len()).collect::<Vec<_>>(), [3, 1]);
    let empty = shape().build(&[], 100).packet;
    assert_eq!(merged(&[empty.clone(), empty], true).len(), 2);
}
