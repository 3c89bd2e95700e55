//! From the device to the port: one thread, no copy of a payload, no allocation per packet.

mod oversized;

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use loden_proto::model::Vni;

use super::counters::{Counters, Loss};
use super::device::TunDevice;
use super::ecn::Ecn;
use super::header::{self, Header};
use super::icmp::Problem;
use super::inner::{self, Inner};
use super::peers::Remote;
use super::port::{self, Datagrams, Port};
use super::segment::{Cut, HEAD, Offload};
use super::stop::Stop;
use super::told::Told;
use super::view::View;
use super::vnet::{self, Work};
use super::wait::{self, Watch};

/// Segments of one send at most (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const SEGMENTS: usize = 64;
/// Payload of UDP over IPv4 at most, in bytes.
const LONGEST: usize = 65_507;
/// A super-packet and what is before it.
const BUFFER: usize = vnet::LENGTH + 65_536;

/// The kernel does not send it that long.
#[derive(Debug)]
struct TooBig;

/// What the loop writes to, for each packet anew.
struct Room<'a> {
    stop: &'a Stop,
    heads: Box<Heads>,
    /// A packet that is put together to be cut otherwise.
    whole: Vec<u8>,
    told: Told,
}

/// Headers of a send: that of the tunnel and those of the packet, for each segment.
type Heads = [[u8; header::LENGTH + HEAD]; SEGMENTS];

/// Takes what a network's device hands out to the peers.
#[derive(Debug)]
pub struct Sender {
    /// The network's device.
    pub device: Arc<TunDevice>,
    /// Where to.
    pub view: Arc<ArcSwap<View>>,
    /// What becomes of the packets.
    pub counters: Arc<Counters>,
}

/// How a packet gets to its peer.
struct Way<'a> {
    vni: Vni,
    remote: &'a Remote,
    port: &'a Port,
    /// Datagrams of one send at most.
    at_once: usize,
    stop: &'a Stop,
}

impl Way<'_> {
    /// Sends datagrams; waits while the port is full.
    fn send(&self, datagrams: Datagrams<'_>) -> io::Result<()> {
        let to = self.remote.endpoint.into();
        loop {
            match self.port.send(&to, datagrams) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait::writable(self.port.as_fd(), self.stop)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    fn header(&self, partial: bool) -> [u8; header::LENGTH] {
        Header { vni: self.vni, key: self.remote.key, partial }.encode()
    }
}

impl Sender {
    /// Runs until `stop` is set.
    ///
    /// # Errors
    /// The device cannot be read any more.
    pub fn run(&self, stop: &Stop) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut room = Room {
            stop,
            heads: Box::new([[0; header::LENGTH + HEAD]; SEGMENTS]),
            whole: Vec::new(),
            told: Told::new(Instant::now()),
        };
        let mut watch = Watch::default();
        while !stop.is_set() {
            match self.device.read(&mut buffer) {
                Ok(length) => self.packet(&mut buffer[..length], &self.view.load(), &mut room),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    watch.news(self.device.as_fd(), stop)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn packet(&self, bytes: &mut [u8], view: &View, room: &mut Room<'_>) {
        let peers = &view.peers;
        let Ok((work, packet)) = vnet::decode(bytes) else {
            return self.counters.add_lost(Loss::Unsendable, 1);
        };
        let Ok(inner) = Inner::parse(packet) else { return self.counters.add_lost(Loss::Unsendable, 1) };
        let Some(remote) = peers.behind(inner.destination) else {
            self.counters.add_lost(Loss::NoPeer, 1);
            return room.told.tell(&inner, Problem::Unreachable, &self.device, &self.counters);
        };
        let Some(port) = view.port_to(remote.endpoint) else {
            return self.counters.add_lost(Loss::NoPort, 1);
        };
        let at_once = if view.gathers && remote.path.gathers() { SEGMENTS } else { 1 };
        let way = Way { vni: peers.vni(), remote, port, at_once, stop: room.stop };
        remote.path.mark_used();
        let longest = match work {
            Work::Cut(offload) => longest(&inner, offload),
            Work::Nothing | Work::Checksum { .. } => packet.len(),
        };
        if longest > usize::from(remote.path.inner_mtu()) {
            return self.oversized(bytes, work, &way, room);
        }
        match work {
            Work::Nothing => self.single(packet, false, &way),
            Work::Cut(offload) => self.cut(inner, offload, &way, &mut room.heads),
            Work::Checksum { start, .. } if inner.transport.is_some_and(|found| found.start == start) => {
                self.single(packet, true, &way);
            }
            Work::Checksum { start, offset } => {
                let packet = &mut bytes[vnet::LENGTH..];
                match inner::complete_checksum(packet, start, offset) {
                    Ok(()) => self.single(packet, false, &way),
                    Err(_) => self.counters.add_lost(Loss::Unsendable, 1),
                }
            }
        }
    }

    /// Sends a packet as it is.
    fn single(&self, packet: &[u8], partial: bool, way: &Way<'_>) {
        let header = way.header(partial);
        let bytes = [IoSlice::new(&header), IoSlice::new(packet)];
        let segment = header::LENGTH + packet.len();
        let _ = self.send(way, Datagrams { bytes: &bytes, segment, mark: Ecn::of(packet) }, 1);
    }

    /// Sends the packets that a super-packet becomes, as many at a time as the kernel takes.
    fn cut(&self, inner: Inner<'_>, offload: Offload, way: &Way<'_>, heads: &mut Heads) {
        let Ok(cut) = Cut::new(inner, offload) else { return self.counters.add_lost(Loss::Unsendable, 1) };
        // Behind extension headers the receiver would not find the field.
        let partial = inner.transport.is_some();
        let header = way.header(partial);
        let full = header::LENGTH + cut.full();
        let at_once = (LONGEST / full).clamp(1, way.at_once);
        for first in (0..cut.count()).step_by(at_once) {
            let mut bytes = ArrayVec::<IoSlice<'_>, { 2 * SEGMENTS }>::new();
            for (index, buffer) in (first..cut.count()).zip(heads.iter_mut().take(at_once)) {
                let (own, head) = buffer.split_at_mut(header::LENGTH);
                own.copy_from_slice(&header);
                let head = head.first_chunk_mut().unwrap_or_else(|| unreachable!("it is that long"));
                let Some(segment) = cut.segment(index, head) else { break };
                if !partial {
                    segment.complete(head, offload);
                }
                bytes.push(IoSlice::new(&buffer[..header::LENGTH + segment.head]));
                bytes.push(IoSlice::new(segment.payload));
            }
            let datagrams = Datagrams { bytes: &bytes, segment: full, mark: Ecn::of(inner.packet) };
            if self.send(way, datagrams, bytes.len() / 2).is_err() {
                let unsent = cut.count() - (first + bytes.len() / 2);
                return self.counters.add_lost(Loss::TooBig, unsent);
            }
        }
    }

    /// Sends datagrams. What is too long for the host's own link is too long for the way to this peer, and says nothing
    /// of how the host sends.
    fn send(&self, way: &Way<'_>, datagrams: Datagrams<'_>, count: usize) -> Result<(), TooBig> {
        match way.send(datagrams) {
            Ok(()) => self.counters.add_sent(count),
            Err(error) if count > 1 && port::refuses_many(&error) => return self.singly(way, datagrams),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.counters.add_lost(Loss::TooBig, count);
                return Err(TooBig);
            }
            Err(_) => self.counters.add_lost(Loss::NotSent, count),
        }
        Ok(())
    }

    /// Sends datagrams one by one that the kernel has not taken at once. Where it takes the first one alone, it was for
    /// their being many, and the others are sent so from now on; else it says why, and what it would take.
    fn singly(&self, way: &Way<'_>, datagrams: Datagrams<'_>) -> Result<(), TooBig> {
        let mut all = datagrams.bytes.chunks(2).enumerate();
        while let Some((index, bytes)) = all.next() {
            match way.send(Datagrams { bytes, ..datagrams }) {
                Ok(()) => {
                    self.counters.add_sent(1);
                    if index == 0 {
                        way.remote.path.refuse_many();
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.counters.add_lost(Loss::TooBig, 1 + all.count());
                    return Err(TooBig);
                }
                Err(_) => self.counters.add_lost(Loss::NotSent, 1),
            }
        }
        Ok(())
    }
}

/// Bytes of the longest packet that a super-packet becomes; one that cannot be cut is found later.
fn longest(inner: &Inner<'_>, offload: Offload) -> usize {
    Cut::new(*inner, offload).map_or(0, |cut| cut.full().min(inner.packet.len()))
}
