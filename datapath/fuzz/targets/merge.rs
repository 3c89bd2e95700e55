//! Packets of one flow, lost, exchanged and changed on the way: what is merged of them is, cut again, what came.
//!
//! The input is the number of changes, three bytes for each, and what a device hands out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loden_datapath::tunnel::inner::Inner;
use loden_datapath::tunnel::merge::Run;
use loden_datapath::tunnel::segment::{Cut, HEAD, Offload};
use loden_datapath::tunnel::vnet::{self, Work};

fuzz_target!(|bytes: &[u8]| {
    let Some((number, rest)) = bytes.split_first() else { return };
    let Some((changes, bytes)) = rest.split_at_checked(usize::from(number % 8) * 3) else { return };
    let Ok((Work::Cut(offload), packet)) = vnet::decode(bytes) else { return };
    let Some(mut packets) = cut(packet, offload) else { return };
    for change in changes.chunks_exact(3) {
        alter(&mut packets, change);
    }
    packets.retain(|packet| Inner::parse(packet).is_ok());
    let mut rest = &packets[..];
    while let Some(first) = rest.first() {
        let Ok(inner) = Inner::parse(first) else { unreachable!("they were looked at") };
        let mut run = Run::begin(inner, true);
        let mut count = 1;
        while let Some(next) = rest.get(count) {
            let Ok(next) = Inner::parse(next) else { unreachable!("they were looked at") };
            if !run.push(&next) {
                break;
            }
            count += 1;
        }
        let mut head = [0; HEAD];
        if let Some(merged) = run.merge(&mut head) {
            let whole = [&head[..merged.head], &run.payloads().concat()].concat();
            assert_eq!(cut(&whole, merged.offload).as_deref(), Some(&rest[..count]));
        } else {
            assert_eq!(count, 1);
        }
        rest = &rest[count..];
    }
});

/// The packets with checksums that are left to the kernel; `None`: it is nothing to be cut.
fn cut(packet: &[u8], offload: Offload) -> Option<Vec<Vec<u8>>> {
    let cut = Cut::new(Inner::parse(packet).ok()?, offload).ok()?;
    let mut head = [0; HEAD];
    let mut packets = Vec::new();
    while let Some(segment) = cut.segment(packets.len(), &mut head) {
        packets.push([&head[..segment.head], segment.payload].concat());
    }
    Some(packets)
}

fn alter(packets: &mut Vec<Vec<u8>>, change: &[u8]) {
    let (what, at, with) = (change[0], usize::from(change[1]), change[2]);
    if packets.len() < 2 {
        return;
    }
    let (one, other) = (at % packets.len(), usize::from(with) % packets.len());
    match what % 3 {
        0 => drop(packets.remove(one)),
        1 => packets.swap(one, other),
        _ => {
            let byte = usize::from(what / 3);
            if let Some(byte) = packets[one].get_mut(byte) {
                *byte ^= with;
            }
        }
    }
}
