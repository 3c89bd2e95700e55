//! Two hosts with a wire between them and a tunnel over it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use arc_swap::ArcSwap;
use loden_datapath::tunnel::counters::Counters;
use loden_datapath::tunnel::device::TunDevice;
use loden_datapath::tunnel::port::Port;
use loden_datapath::tunnel::receive::{Inlet, Receiver};
use loden_datapath::tunnel::send::Sender;
use loden_datapath::tunnel::{Peers, Remote};
use loden_proto::model::{Key, Subnets, Vni};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

const PORT: u16 = 8285;

/// The tunnel of a host.
pub(crate) struct Host {
    pub(crate) port: Arc<Port>,
    pub(crate) counters: Arc<Counters>,
}

/// Two hosts, and what ends their tunnels.
pub(crate) struct Hosts {
    namespaces: [File; 2],
    hosts: [Host; 2],
    stop: Arc<EventFd>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// The key of each host.
pub(crate) fn key(number: u8) -> Key {
    Key::try_from(0x1000 + u64::from(number)).unwrap()
}

pub(crate) fn vni() -> Vni {
    Vni::try_from(5).unwrap()
}

/// The address of a host's pod, which is the host itself here.
pub(crate) fn pod(number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, number, 0, 1).into()
    }
}

/// Where a host's tunnel is.
pub(crate) fn endpoint(number: u8, v6: bool) -> SocketAddr {
    let address: IpAddr = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, number).into()
    };
    SocketAddr::new(address, PORT)
}

impl Hosts {
    /// Two hosts whose tunnel goes over one family of the wire.
    pub(crate) fn over(v6: bool) -> Self {
        let namespaces = [namespace(), namespace()];
        let far = namespaces[1].as_raw_fd();
        inside(&namespaces[0], async |handle| {
            let veth = LinkVeth::new("eth0", "far0").build();
            handle.link().add(veth).execute().await.unwrap();
            let index = if_nametoindex("far0").unwrap();
            let moved = LinkUnspec::new_with_index(index).setns_by_fd(far).name("eth0".to_owned());
            handle.link().set(moved.build()).execute().await.unwrap();
        });
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let mut threads = Vec::new();
        let hosts = [1, 2].map(|number| {
            let namespace = &namespaces[usize::from(number) - 1];
            inside(namespace, async |handle| wire(&handle, number).await);
            let (host, running) = inside(namespace, async |handle| tunnel(&handle, number, v6, &stop).await);
            threads.extend(running);
            host
        });
        Self { namespaces, hosts, stop, threads }
    }

    /// Runs something on a host, in a thread of its own.
    pub(crate) fn on<T: Send + 'static>(
        &self,
        number: u8,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.namespaces[usize::from(number) - 1].try_clone().unwrap();
        thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        })
    }

    pub(crate) fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "a thread of the tunnel has panicked");
        }
    }
}

/// A network namespace that lives as long as its file is open, or something in it.
fn namespace() -> File {
    let (send, receive) = mpsc::channel();
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
        send.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    });
    made.join().unwrap();
    receive.recv().unwrap()
}

/// Does something with the links of a namespace.
fn inside<T: Send>(namespace: &File, what: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    thread::scope(|scope| {
        let entered = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                what(handle).await
            })
        });
        entered.join().unwrap()
    })
}

/// The host's end of the wire.
async fn wire(handle: &Handle, number: u8) {
    let index = if_nametoindex("eth0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
    handle.address().add(index, endpoint(number, false).ip(), 24).execute().await.unwrap();
    handle.address().add(index, endpoint(number, true).ip(), 64).execute().await.unwrap();
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
}

/// The host's tunnel, running.
async fn tunnel(
    handle: &Handle,
    number: u8,
    v6: bool,
    stop: &Arc<EventFd>,
) -> (Host, [thread::JoinHandle<()>; 2]) {
    let other = 3 - number;
    let device = Arc::new(TunDevice::open("tun0".parse().unwrap(), 1400).unwrap());
    let index = if_nametoindex("tun0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/tun0/accept_dad", "0").unwrap();
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    for v6 in [false, true] {
        let length = if v6 { 128 } else { 32 };
        handle.address().add(index, pod(number, v6), length).execute().await.unwrap();
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(10, other, 0, 0), 16)
        .output_interface(index);
    handle.route().add(v4.build()).execute().await.unwrap();
    let v6_route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::new(0xfd00, other.into(), 0, 0, 0, 0, 0, 0), 32)
        .output_interface(index);
    handle.route().add(v6_route.build()).execute().await.unwrap();

    let port = Arc::new(Port::open(endpoint(number, v6)).unwrap());
    let counters = Arc::new(Counters::default());
    let subnets = [format!("10.{other}.0.0/16"), format!("fd00:{other}::/32")];
    let subnets = Subnets::new(subnets.map(|subnet| subnet.parse().unwrap())).unwrap();
    let remote = Remote { endpoint: endpoint(other, v6), key: key(other), subnets };
    let peers = Arc::new(ArcSwap::from_pointee(Peers::new(vni(), vec![key(number)], vec![remote])));
    let sender = Sender {
        device: Arc::clone(&device),
        port: Arc::clone(&port),
        peers: Arc::clone(&peers),
        counters: Arc::clone(&counters),
    };
    let inlets = [(vni(), Inlet { device, peers })].into();
    let receiver = Receiver { port: Arc::clone(&port), inlets, counters: Arc::clone(&counters) };
    let (stop_sender, stop_receiver) = (Arc::clone(stop), Arc::clone(stop));
    let threads = [
        thread::spawn(move || sender.run(stop_sender.as_fd()).unwrap()),
        thread::spawn(move || receiver.run(stop_receiver.as_fd()).unwrap()),
    ];
    (Host { port, counters }, threads)
}
