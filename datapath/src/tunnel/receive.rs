//! From the port to the devices: one thread, no copy of a payload, no allocation per packet.

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use arrayvec::ArrayVec;
use loden_proto::model::Vni;
use nix::poll::PollFlags;
use quinn_udp::RecvMeta;

use super::control::{self, Control};
use super::counters::{Counters, Loss};
use super::device::TunDevice;
use super::ecn::{self, Ecn};
use super::header::{self, Header};
use super::inner::Inner;
use super::merge::{PACKETS, Run};
use super::peers::Rejected;
use super::port::{self, Datagrams, Port};
use super::said;
use super::segment::HEAD;
use super::stop::Stop;
use super::view::View;
use super::vnet;
use super::wait::Watch;

/// Buffers of one receive, each for all that the kernel merges.
const BATCH: usize = 32;
const BUFFER: usize = 65_536;

/// Where a network's packets go.
#[derive(Clone, Debug)]
pub struct Inlet {
    /// The network's device.
    pub device: Arc<TunDevice>,
    /// Who may send.
    pub view: Arc<ArcSwap<View>>,
    /// What becomes of the network's packets.
    pub counters: Arc<Counters>,
}

/// The networks that use a port.
pub type Inlets = HashMap<Vni, Inlet>;

/// Takes what comes in on a port to the devices of the networks that use it.
#[derive(Debug)]
pub struct Receiver {
    /// The port.
    pub port: Arc<Port>,
    /// The networks that use it.
    pub inlets: Arc<ArcSwap<Inlets>>,
    /// What becomes of packets of no network.
    pub counters: Arc<Counters>,
}

impl Receiver {
    /// Runs until `stop` is set.
    ///
    /// # Errors
    /// The port cannot be read any more.
    pub fn run(&self, stop: &Stop) -> io::Result<()> {
        let mut storage = vec![0; BATCH * BUFFER];
        let mut meta = [RecvMeta::default(); BATCH];
        let mut watch = Watch::default();
        while !stop.is_set() {
            let mut buffers: ArrayVec<_, BATCH> =
                storage.chunks_exact_mut(BUFFER).map(IoSliceMut::new).collect();
            match self.port.receive(&mut buffers, &mut meta) {
                Ok(count) => {
                    let inlets = self.inlets.load();
                    let mut batch = Batch { inlets: &inlets, network: None, open: None };
                    for (buffer, meta) in buffers.iter_mut().zip(&meta).take(count) {
                        self.datagrams(&mut buffer[..meta.len], meta, &mut batch);
                    }
                    batch.deliver();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if watch.news(self.port.as_fd(), stop)?.contains(PollFlags::POLLERR) {
                        self.heed();
                    }
                }
                Err(error) if port::is_of_the_way(&error) => self.heed(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hears what the host and routers say of datagrams that were sent.
    fn heed(&self) {
        let inlets = self.inlets.load();
        said::each(&self.port, |said| {
            for inlet in inlets.values() {
                inlet.view.load().heed(said);
            }
        });
    }

    /// A datagram of the tunnel itself. What is not from a peer of the network is not answered.
    fn control(&self, datagram: &[u8], from: SocketAddr, inlets: &Inlets) {
        let (header, control) = match Control::decode(datagram) {
            Ok(decoded) => decoded,
            Err(unreadable) => return self.counters.add_lost(Rejected::from(unreadable).into(), 1),
        };
        let Some(inlet) = inlets.get(&header.vni) else { return self.counters.add_lost(Loss::Network, 1) };
        let view = inlet.view.load();
        let remote = match view.peers.sender(from, header) {
            Ok(remote) => remote,
            Err(rejected) => return inlet.counters.add_lost(rejected.into(), 1),
        };
        match control {
            Control::Probe(nonce) => {
                let answer = Control::Answer(nonce).encode(Header { key: remote.key, ..header });
                let bytes = [IoSlice::new(&answer)];
                let datagrams = Datagrams { bytes: &bytes, segment: answer.len(), mark: Ecn::NotEct };
                // A lost answer is a lost probe, which is sent again.
                if let Err(error) = self.port.send(&remote.endpoint.into(), datagrams) {
                    tracing::debug!(peer = %from, %error, "a probe was not answered");
                }
            }
            Control::Answer(nonce) => remote.path.answer(nonce),
        }
    }

    /// Datagrams of one sender that came one behind the other.
    fn datagrams<'a>(&self, bytes: &'a mut [u8], meta: &RecvMeta, batch: &mut Batch<'a>) {
        if bytes.is_empty() {
            return self.counters.add_lost(Loss::Unreadable, 1);
        }
        let outer = Ecn::from_bits(meta.ecn.map_or(0, |mark| mark as u8));
        for datagram in bytes.chunks_mut(meta.stride.max(1)) {
            if control::is_control(datagram) {
                self.control(datagram, meta.addr, batch.inlets);
                continue;
            }
            let (header, _) = match Header::decode(datagram) {
                Ok(decoded) => decoded,
                Err(unreadable) => {
                    self.counters.add_lost(Rejected::from(unreadable).into(), 1);
                    continue;
                }
            };
            let Some((inlet, view)) = batch.network(header.vni) else {
                self.counters.add_lost(Loss::Network, 1);
                continue;
            };
            // Before they are merged; what is not admitted is not looked at again.
            let packet = &mut datagram[header::LENGTH..];
            let leaves = ecn::leave(packet, outer);
            let inner = match view.peers.admit(meta.addr, header, packet) {
                Ok(inner) => inner,
                Err(rejected) => {
                    inlet.counters.add_lost(rejected.into(), 1);
                    continue;
                }
            };
            if leaves.is_err() {
                inlet.counters.add_lost(Loss::Congested, 1);
                continue;
            }
            batch.take(inner, header, inlet);
        }
    }
}

/// What one receive has brought. What follows each other is put together, however many datagrams the kernel has merged.
struct Batch<'a> {
    inlets: &'a Inlets,
    /// That of the last packet.
    network: Option<(Vni, &'a Inlet, Guard<Arc<View>>)>,
    /// What others may follow.
    open: Option<(Run<'a>, Header, &'a Inlet)>,
}

impl<'a> Batch<'a> {
    fn network(&mut self, vni: Vni) -> Option<(&'a Inlet, &View)> {
        if self.network.as_ref().is_none_or(|(known, ..)| *known != vni) {
            self.network = self.inlets.get(&vni).map(|inlet| (vni, inlet, inlet.view.load()));
        }
        self.network.as_ref().map(|(_, inlet, view)| (*inlet, &***view))
    }

    fn take(&mut self, packet: Inner<'a>, header: Header, inlet: &'a Inlet) {
        if let Some((run, before, _)) = &mut self.open
            && *before == header
            && run.push(&packet)
        {
            return;
        }
        self.deliver();
        self.open = Some((Run::begin(packet, header.partial), header, inlet));
    }

    fn deliver(&mut self) {
        if let Some((run, _, inlet)) = self.open.take() {
            inlet.deliver(&run);
        }
    }
}

impl Inlet {
    fn deliver(&self, run: &Run<'_>) {
        let count = run.payloads().len();
        match write(run, &self.device) {
            Ok(()) => self.counters.add_received(count),
            Err(_) => self.counters.add_lost(Loss::NotDelivered, count),
        }
    }
}

/// Writes a run: as one packet, which the kernel cuts where it must.
fn write(run: &Run<'_>, device: &TunDevice) -> io::Result<()> {
    let mut head = [0; HEAD];
    let Some(merged) = run.merge(&mut head) else {
        let before = run.partial().map_or(vnet::WHOLE, vnet::partial);
        return device.write(&[IoSlice::new(&before), IoSlice::new(run.first().packet)]);
    };
    let before = vnet::super_packet(merged.offload, merged.head, run.first().is_v4());
    let mut bytes = ArrayVec::<IoSlice<'_>, { PACKETS + 2 }>::new();
    bytes.push(IoSlice::new(&before));
    bytes.push(IoSlice::new(&head[..merged.head]));
    bytes.extend(run.payloads().iter().map(|payload| IoSlice::new(payload)));
    device.write(&bytes)
}

#[cfg(test)]
mod tests;
