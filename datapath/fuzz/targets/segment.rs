//! What a device hands out: cut, it is whole packets that hold all of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loden_datapath::tunnel::inner::{Inner, Transport};
use loden_datapath::tunnel::segment::{Cut, HEAD};
use loden_datapath::tunnel::vnet::{self, Work};

fuzz_target!(|bytes: &[u8]| {
    let Ok((Work::Cut(offload), packet)) = vnet::decode(bytes) else { return };
    let Ok(inner) = Inner::parse(packet) else { return };
    let Ok(cut) = Cut::new(inner, offload) else { return };
    // The kernel does not say that TCP is UDP.
    let says_so = |transport: Transport| (transport.start, transport.protocol) == (offload.start, offload.protocol);
    if !inner.transport.is_some_and(says_so) {
        return;
    }
    let (mut head, mut payload, mut count) = ([0; HEAD], Vec::new(), 0);
    while let Some(segment) = cut.segment(count, &mut head) {
        let whole = [&head[..segment.head], segment.payload].concat();
        assert!(whole.len() <= cut.full());
        assert_eq!(Inner::parse(&whole).map(|inner| inner.packet.len()), Ok(whole.len()));
        segment.complete(&mut head, offload);
        payload.extend_from_slice(segment.payload);
        count += 1;
    }
    assert_eq!(count, cut.count());
    assert!(packet.ends_with(&payload));
});
