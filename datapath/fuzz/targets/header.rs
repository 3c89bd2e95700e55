//! A datagram from anybody: it is understood as it was written, or not at all.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loden_datapath::tunnel::Header;
use loden_datapath::tunnel::inner::Inner;

fuzz_target!(|datagram: &[u8]| {
    let Ok((header, packet)) = Header::decode(datagram) else { return };
    assert_eq!([&header.encode()[..], packet].concat(), datagram);
    if let Ok(inner) = Inner::parse(packet) {
        assert_eq!(inner.packet, packet);
    }
});
