//! The kernel as the judge: a super-packet that is forwarded to a device without offloads is cut by the kernel.

use std::fs;
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::*;
use crate::tunnel::device::TunDevice;
use crate::tunnel::inner::complete_checksum;
use crate::tunnel::testing::{Super, supers};
use crate::tunnel::vnet;

const FLOWS: usize = 400;
/// A segment with the longest headers fits.
const MTU: u16 = 1640;
/// In milliseconds.
const PATIENCE: u16 = 10_000;

#[test]
fn a_super_packet_is_cut_as_the_kernel_cuts_it_byte_by_byte() {
    let test = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (way_in, way_out) = runtime.block_on(devices());
        let mut runner = TestRunner::deterministic();
        let flows = supers().prop_filter("one packet is not cut", |whole| whole.cut().len() > 1);
        for _ in 0..FLOWS {
            let whole = flows.new_tree(&mut runner).unwrap().current();
            let expected: Vec<_> =
                whole.cut().into_iter().map(|packet| delivered(packet, whole.offload)).collect();
            write(&way_in, &whole);
            let by_kernel: Vec<_> = expected.iter().map(|_| read(&way_out)).collect();
            assert_eq!(by_kernel, expected, "{whole:?}");
        }
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A device that super-packets come from, and one that takes none; between them a router.
async fn devices() -> (TunDevice, SyncDevice) {
    let way_in = TunDevice::open("in".parse().unwrap(), MTU).unwrap();
    let way_out = DeviceBuilder::new().name("out").mtu(MTU).build_sync().unwrap();
    for (setting, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/out/router_solicitations", "0"),
        ("ipv6/conf/out/addr_gen_mode", "1"),
    ] {
        fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
    }
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    for (name, prefix) in [("in", 1), ("out", 2)] {
        handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.unwrap();
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(10, prefix, 0, 0), 16)
            .output_interface(index);
        handle.route().add(v4.build()).execute().await.unwrap();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::new(0xfd00, prefix.into(), 0, 0, 0, 0, 0, 0), 32)
            .output_interface(index);
        handle.route().add(v6.build()).execute().await.unwrap();
    }
    (way_in, way_out)
}

fn write(device: &TunDevice, whole: &Super) {
    let head = whole.inner().transport.unwrap().end;
    let before = vnet::super_packet(whole.offload, head, whole.inner().is_v4());
    device.write(&[IoSlice::new(&before), IoSlice::new(&whole.packet)]).unwrap();
}

/// The next packet; what the host itself has to say is left out.
fn read(device: &SyncDevice) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    loop {
        let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(PATIENCE)).unwrap(), 1, "the kernel sends nothing on");
        let length = device.recv(&mut buffer).unwrap();
        let is_ours = Inner::parse(&buffer[..length]).is_ok_and(|inner| inner.transport.is_some());
        if is_ours {
            buffer.truncate(length);
            return buffer;
        }
    }
}

/// What a receiver sees behind one router: one hop less, and whole checksums.
fn delivered(mut packet: Vec<u8>, Offload { protocol, start, .. }: Offload) -> Vec<u8> {
    complete_checksum(&mut packet, start, protocol.checksum_offset()).unwrap();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::of(checksum::add(0, &packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}
