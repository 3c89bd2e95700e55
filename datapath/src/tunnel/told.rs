//! Writes to a device what its pods have to know of a packet that goes no further.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::counters::Counters;
use super::device::TunDevice;
use super::icmp::{self, Problem};
use super::inner::Inner;
use super::vnet;

/// One message so often, and as many at once.
const EVERY: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 50;
/// How long the device's addresses are known: they belong to others.
const KNOWN: Duration = Duration::from_secs(5);
/// How long it is known that it has none of a family.
const MISSING: Duration = Duration::from_millis(100);

/// What is needed for it.
#[derive(Debug)]
pub(super) struct Told {
    bucket: Bucket,
    room: [u8; icmp::LONGEST],
    own: Option<(Instant, Vec<IpAddr>)>,
}

impl Told {
    pub(super) fn new(now: Instant) -> Self {
        Self { bucket: Bucket::new(EVERY, AT_ONCE, now), room: [0; icmp::LONGEST], own: None }
    }

    pub(super) fn tell(
        &mut self,
        about: &Inner<'_>,
        problem: Problem,
        device: &TunDevice,
        counters: &Counters,
    ) {
        let now = Instant::now();
        let Some(own) = self.own(about.is_v4(), device, now) else { return };
        let Some(length) = icmp::answer(about, problem, own, &mut self.room) else { return };
        if !self.bucket.take(now) {
            return;
        }
        let message = [IoSlice::new(&vnet::WHOLE), IoSlice::new(&self.room[..length])];
        if device.write(&message).is_ok() {
            counters.add_told();
        }
    }

    /// The device's own address of a family.
    fn own(&mut self, v4: bool, device: &TunDevice, now: Instant) -> Option<IpAddr> {
        let find = |addresses: &[IpAddr]| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        let known = |(at, addresses): &(Instant, Vec<IpAddr>)| {
            now < *at + if find(addresses).is_some() { KNOWN } else { MISSING }
        };
        if !self.own.as_ref().is_some_and(known) {
            self.own = Some((now, device.addresses()));
        }
        self.own.as_ref().and_then(|(_, addresses)| find(addresses))
    }
}
