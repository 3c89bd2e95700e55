//! All tunnels of a network namespace: devices, ports, and the threads between them.
//!
//! ```text
//!  device of a network ──Sender──▶ the port of the peer's family
//!  device of a network ◀─Receiver── port of an address ─▶ devices of other networks
//! ```
//!
//! One thread for each device and one for each port. What they look at is swapped whole while they run: peers, keys,
//! the networks of a port. A port is open while a network uses it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use loden_proto::model::{DeviceOffload, Key, Subnets, Vni};

use super::counters::Counters;
use super::device::TunDevice;
use super::gate::Gate;
use super::held::{self, Held};
use super::limits::{Limits, Rungs};
use super::loops::Loop;
use super::path::Path;
use super::peers::{Peers, Remote};
use super::port::Port;
use super::probe::Prober;
use super::receive::{Inlet, Inlets, Receiver};
use super::send::Sender;
use super::view::View;
use super::wait;
use crate::name::DeviceName;

/// How long datagrams wait for networks that a process before this one had, in milliseconds.
const GRACE: u16 = 1000;

/// How a network receives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listening {
    /// The network.
    pub vni: Vni,
    /// Where: at most one address and port for each family.
    pub locals: Vec<SocketAddr>,
    /// What senders show: the present key, and for a while the one before.
    pub keys: Vec<Key>,
    /// MTU of its device in bytes.
    pub mtu: u16,
    /// What is left to the kernel at most.
    pub limits: Limits,
}

impl Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vni {} mtu {}", self.vni, self.mtu)?;
        self.locals.iter().try_for_each(|local| write!(f, " local {local}"))?;
        write!(f, "{}", self.limits)
    }
}

/// A peer behind an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Behind {
    /// What it wants to be shown.
    pub key: Key,
    /// The pods behind it.
    pub subnets: Subnets,
}

/// The peers of a network by their endpoints.
pub type Remotes = BTreeMap<SocketAddr, Behind>;

/// All tunnels of the namespace of the thread that opens them. They end when it is dropped; devices without another
/// owner go with them.
#[derive(Debug, Default)]
pub struct Engine {
    held: Held,
    /// Shut until all that was left open is taken up: what networks have been sent meanwhile waits.
    gate: Option<Arc<Gate>>,
    ports: Ports,
    tunnels: BTreeMap<DeviceName, Tunnel>,
}

type Paths = BTreeMap<SocketAddr, Arc<Path>>;

type Ports = BTreeMap<SocketAddr, OpenPort>;

#[derive(Debug)]
struct Tunnel {
    device: Arc<TunDevice>,
    listening: Listening,
    remotes: Remotes,
    /// The ways to them, which stay while they do.
    paths: Paths,
    view: Arc<ArcSwap<View>>,
    counters: Arc<Counters>,
    /// What the device hands out.
    offload: DeviceOffload,
    sender: Loop,
    prober: Loop,
}

#[derive(Debug)]
struct OpenPort {
    port: Arc<Port>,
    inlets: Arc<ArcSwap<Inlets>>,
    counters: Arc<Counters>,
    /// Whether the kernel merges datagrams.
    merges: bool,
    receiver: Loop,
}

impl Engine {
    /// One that takes up what a process before this one has left open.
    #[must_use]
    pub fn with(held: Held) -> Self {
        let gate = held.has_devices().then(|| Gate::shut().ok().map(Arc::new)).flatten();
        Self { held, gate, ..Self::default() }
    }

    /// Lets go of what was left open and is not needed any more: all networks listen.
    pub fn release_rest(&mut self) {
        self.held.release_rest();
        self.open_gate();
    }

    /// Begins to listen for a network on its device, or listens otherwise from now on. What its peers send meanwhile
    /// to an address that stays is not lost. Who begins knows these `remotes` before it takes the first packet.
    ///
    /// # Errors
    /// The device cannot be opened, a port is in use or its address is not of this host, two networks have one VNI on
    /// a port, or the threads cannot be started. What there was goes on then.
    pub fn listen(&mut self, name: DeviceName, listening: Listening, remotes: &Remotes) -> io::Result<()> {
        let clashes = |(other, tunnel): (&DeviceName, &Tunnel)| {
            *other != name
                && tunnel.listening.vni == listening.vni
                && tunnel.listening.locals.iter().any(|local| listening.locals.contains(local))
        };
        if self.tunnels.iter().any(clashes) {
            let text = format!("another device receives VNI {} on the same port", listening.vni);
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let result = self.start(name, listening, remotes);
        self.feed_ports();
        self.close_unused_ports();
        if !self.held.has_devices() {
            self.open_gate();
        }
        result
    }

    fn open_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
    }

    fn start(&mut self, name: DeviceName, listening: Listening, remotes: &Remotes) -> io::Result<()> {
        for local in &listening.locals {
            self.open_port(*local)?;
        }
        if let Some(tunnel) = self.tunnels.get_mut(&name).filter(|tunnel| tunnel.is_running()) {
            tunnel.set(listening)?;
        } else {
            let before = self.tunnels.remove(&name);
            let mut known = before.map(|tunnel| tunnel.remotes).unwrap_or_default();
            known.extend(remotes);
            // Whoever holds the device that was would take packets of the new one.
            self.feed_ports();
            let device = self.open_device(name, listening.mtu)?;
            self.tunnels.insert(name, Tunnel::start(device, listening, known, &self.ports)?);
        }
        // Of all: a port that was opened again is another one.
        for tunnel in self.tunnels.values_mut() {
            tunnel.turn(&self.ports);
        }
        Ok(())
    }

    /// Changes peers of a network: `None` takes one away. All changes take effect at once. Nothing is done for a
    /// device that nobody listens on.
    pub fn change(
        &mut self,
        name: DeviceName,
        changes: impl IntoIterator<Item = (SocketAddr, Option<Behind>)>,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(&name) else { return };
        for (endpoint, behind) in changes {
            match behind {
                Some(behind) => drop(tunnel.remotes.insert(endpoint, behind)),
                None => drop(tunnel.remotes.remove(&endpoint)),
            }
        }
        tunnel.turn(&self.ports);
    }

    /// Ends a network's tunnel.
    pub fn close(&mut self, name: DeviceName) {
        self.tunnels.remove(&name);
        self.held.release(name.as_str());
        self.feed_ports();
        self.close_unused_ports();
    }

    /// How a network receives on a device; `None` when it does not, or not any more.
    #[must_use]
    pub fn listening(&self, name: DeviceName) -> Option<&Listening> {
        let tunnel = self.tunnels.get(&name)?;
        let runs = |local| self.ports.get(local).is_some_and(|port| port.receiver.is_running());
        (tunnel.is_running() && tunnel.listening.locals.iter().all(runs)).then_some(&tunnel.listening)
    }

    /// The peers of a network.
    #[must_use]
    pub fn remotes(&self, name: DeviceName) -> Option<&Remotes> {
        self.tunnels.get(&name).map(|tunnel| &tunnel.remotes)
    }

    /// What became of the packets of a network.
    #[must_use]
    pub fn counters(&self, name: DeviceName) -> Option<&Arc<Counters>> {
        self.tunnels.get(&name).map(|tunnel| &tunnel.counters)
    }

    /// The devices of all networks.
    pub fn devices(&self) -> impl Iterator<Item = DeviceName> {
        self.tunnels.keys().copied()
    }

    /// What a network leaves to the kernel now; `None` when it does not receive, or not any more.
    #[must_use]
    pub fn rungs(&self, name: DeviceName) -> Option<Rungs> {
        self.listening(name)?;
        let tunnel = self.tunnels.get(&name)?;
        let mut ports = tunnel.listening.locals.iter().filter_map(|local| self.ports.get(local));
        let limits = tunnel.listening.limits;
        let singly = tunnel.paths.iter().filter(|(_, path)| !limits.single_sends && !path.gathers());
        let narrow = tunnel.paths.iter().filter(|(_, path)| path.mtu() < path.most());
        Some(Rungs {
            limits,
            device: tunnel.offload,
            single_receives: ports.any(|port| !port.merges),
            singly: singly.map(|(endpoint, _)| *endpoint).collect(),
            narrow: narrow.map(|(endpoint, path)| (*endpoint, path.mtu())).collect(),
        })
    }

    /// What became of datagrams that are of no network, by port.
    pub fn strays(&self) -> impl Iterator<Item = (SocketAddr, &Arc<Counters>)> {
        self.ports.iter().map(|(local, port)| (*local, &port.counters))
    }

    fn open_port(&mut self, local: SocketAddr) -> io::Result<()> {
        if self.ports.get(&local).is_some_and(|port| port.receiver.is_running()) {
            return Ok(());
        }
        // The socket of one that has ended is in the way.
        self.ports.remove(&local);
        let name = held::port_name(local);
        let port = self.held.open(&name, |socket| Port::adopt(socket, local), || Port::open(local))?;
        self.ports.insert(local, OpenPort::start(local, port, self.gate.clone())?);
        Ok(())
    }

    fn open_device(&mut self, name: DeviceName, mtu: u16) -> io::Result<TunDevice> {
        let adopt = |descriptor| {
            let is_it = held::is_of_device(&descriptor, name);
            is_it.then(|| TunDevice::adopt(name, descriptor).ok()).flatten()
        };
        self.held.open(name.as_str(), adopt, || TunDevice::open(name, mtu))
    }

    fn close_unused_ports(&mut self) {
        let Self { ports, held, .. } = self;
        ports.retain(|local, port| {
            let is_used = !port.inlets.load().is_empty();
            if !is_used {
                held.release(&held::port_name(*local));
            }
            is_used
        });
    }

    /// Tells each port which networks use it.
    fn feed_ports(&mut self) {
        for (local, port) in &mut self.ports {
            let users = || self.tunnels.values().filter(|tunnel| tunnel.listening.locals.contains(local));
            let inlets: Inlets = users().map(|tunnel| (tunnel.listening.vni, tunnel.inlet())).collect();
            port.inlets.store(Arc::new(inlets));
            // One network that wants each by itself decides for all.
            let may_merge = users().all(|tunnel| !tunnel.listening.limits.single_receives);
            port.merges = port.port.merge(may_merge);
        }
    }
}

impl Tunnel {
    fn start(device: TunDevice, listening: Listening, remotes: Remotes, ports: &Ports) -> io::Result<Self> {
        let name = device.name();
        let mut paths = Paths::new();
        follow(&mut paths, &remotes, listening.mtu);
        let offload = device.set_offload(listening.limits.device)?;
        let device = Arc::new(device);
        let view = Arc::new(ArcSwap::from_pointee(view(&listening, &remotes, &paths, ports)));
        let counters = Arc::default();
        let sender =
            Sender { device: Arc::clone(&device), view: Arc::clone(&view), counters: Arc::clone(&counters) };
        let sender = Loop::start(format!("to {name}"), move |stop| sender.run(stop))?;
        let prober = Prober { view: Arc::clone(&view) };
        let prober = Loop::start(format!("ways {name}"), move |stop| prober.run(stop))?;
        Ok(Self { device, listening, remotes, paths, view, counters, offload, sender, prober })
    }

    fn is_running(&self) -> bool {
        self.sender.is_running() && self.prober.is_running()
    }

    /// Has the loops look at what is known now.
    fn turn(&mut self, ports: &Ports) {
        follow(&mut self.paths, &self.remotes, self.listening.mtu);
        self.view.store(Arc::new(view(&self.listening, &self.remotes, &self.paths, ports)));
    }

    /// With another MTU other sizes are looked for.
    fn set(&mut self, listening: Listening) -> io::Result<()> {
        self.offload = self.device.set_offload(listening.limits.device)?;
        if self.listening.mtu != listening.mtu {
            self.paths.clear();
        }
        self.listening = listening;
        Ok(())
    }

    fn inlet(&self) -> Inlet {
        Inlet {
            device: Arc::clone(&self.device),
            view: Arc::clone(&self.view),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// Keeps the ways of the peers that there are.
fn follow(paths: &mut Paths, remotes: &Remotes, mtu: u16) {
    paths.retain(|endpoint, _| remotes.contains_key(endpoint));
    for endpoint in remotes.keys() {
        paths.entry(*endpoint).or_insert_with(|| Arc::new(Path::new(*endpoint, mtu)));
    }
}

fn view(listening: &Listening, remotes: &Remotes, paths: &Paths, ports: &Ports) -> View {
    let remotes = remotes.iter().filter_map(|(endpoint, behind)| {
        let path = Arc::clone(paths.get(endpoint)?);
        Some(Remote { endpoint: *endpoint, key: behind.key, subnets: behind.subnets, path })
    });
    let port = |is_family: fn(&IpAddr) -> bool| {
        let local = listening.locals.iter().find(|local| is_family(&local.ip()))?;
        ports.get(local).map(|port| Arc::clone(&port.port))
    };
    View {
        peers: Peers::new(listening.vni, listening.keys.clone(), remotes.collect()),
        gathers: !listening.limits.single_sends,
        v4: port(IpAddr::is_ipv4),
        v6: port(IpAddr::is_ipv6),
    }
}

impl OpenPort {
    fn start(local: SocketAddr, port: Port, gate: Option<Arc<Gate>>) -> io::Result<Self> {
        let port = Arc::new(port);
        let (inlets, counters) = (Arc::<ArcSwap<Inlets>>::default(), Arc::default());
        let receiver = Receiver {
            port: Arc::clone(&port),
            inlets: Arc::clone(&inlets),
            counters: Arc::clone(&counters),
        };
        let receiver = Loop::start(format!("at {}", local.port()), move |stop| {
            gate.map_or(Ok(()), |gate| wait::at(&gate, stop, GRACE))?;
            receiver.run(stop)
        })?;
        Ok(Self { port, inlets, counters, merges: false, receiver })
    }
}
