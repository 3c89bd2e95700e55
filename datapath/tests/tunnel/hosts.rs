//! Two hosts with a wire between them and a tunnel over it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::thread;

use loden_datapath::DeviceName;
use loden_datapath::tunnel::counters::Counters;
use loden_datapath::tunnel::engine::{Behind, Engine, Listening, Remotes};
use loden_datapath::tunnel::limits::Limits;
use loden_proto::model::{Key, Subnets, Vni};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::shelf::Shelf;

const PORT: u16 = 8285;
/// The networks of both hosts, on one port.
pub(crate) const NETWORKS: [u8; 2] = [5, 6];

/// Two hosts and their tunnels.
pub(crate) struct Hosts {
    namespaces: [File; 2],
    /// What is between them.
    router: Option<File>,
    pub(crate) engines: [Engine; 2],
    /// What outlives an engine.
    pub(crate) shelves: [Shelf; 2],
}

/// What a host wants to be shown by senders of a network.
pub(crate) fn key(network: u8, number: u8) -> Key {
    Key::try_from(0x1000 * u64::from(network) + u64::from(number)).unwrap()
}

pub(crate) fn vni(network: u8) -> Vni {
    Vni::try_from(u32::from(network)).unwrap()
}

pub(crate) fn device(network: u8) -> DeviceName {
    format!("tun{network}").parse().unwrap()
}

/// The address of a host's pod in a network, which is the host itself here.
pub(crate) fn pod(network: u8, number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, network.into(), number.into(), 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, network, number, 1).into()
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
        let shelves = [Shelf::default(), Shelf::default()];
        let engines = [1, 2].map(|number| {
            let at = usize::from(number) - 1;
            let (namespace, shelf) = (&namespaces[at], &shelves[at]);
            inside(namespace, async |handle| wire(&handle, number).await);
            inside(namespace, async |handle| networks(&handle, number, v6, shelf).await)
        });
        Self { namespaces, router: None, engines, shelves }
    }

    /// Two hosts with a router between them, whose link to host 2 has an MTU of its own.
    pub(crate) fn across_router(v6: bool, mtu: u32) -> Self {
        let namespaces = [namespace(), namespace()];
        let router = namespace();
        for (number, host) in [1, 2].into_iter().zip(&namespaces) {
            let far = host.as_raw_fd();
            inside(&router, async |handle| {
                let near = format!("to{number}");
                handle.link().add(LinkVeth::new(&near, "far0").build()).execute().await.unwrap();
                let index = if_nametoindex("far0").unwrap();
                let moved = LinkUnspec::new_with_index(index).setns_by_fd(far).name("eth0".to_owned());
                handle.link().set(moved.build()).execute().await.unwrap();
                let index = if_nametoindex(near.as_str()).unwrap();
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{near}/accept_dad"), "0").unwrap();
                for v6 in [false, true] {
                    let length = if v6 { 128 } else { 32 };
                    handle.address().add(index, gateway(number, v6), length).execute().await.unwrap();
                }
                // Only the router's own link is narrow: the hosts do not see it.
                let link = LinkUnspec::new_with_index(index).mtu(if number == 2 { mtu } else { 1500 });
                handle.link().set(link.up().build()).execute().await.unwrap();
                for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
                }
                let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(Ipv4Addr::new(192, 0, 2, number), 32)
                    .output_interface(index);
                handle.route().add(v4.build()).execute().await.unwrap();
                let IpAddr::V6(host) = endpoint(number, true).ip() else { unreachable!("it is IPv6") };
                let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(host, 128)
                    .output_interface(index);
                handle.route().add(v6.build()).execute().await.unwrap();
            });
        }
        let shelves = [Shelf::default(), Shelf::default()];
        let engines = [1, 2].map(|number| {
            let at = usize::from(number) - 1;
            let (namespace, shelf) = (&namespaces[at], &shelves[at]);
            inside(namespace, async |handle| behind_router(&handle, number).await);
            inside(namespace, async |handle| networks(&handle, number, v6, shelf).await)
        });
        Self { namespaces, router: Some(router), engines, shelves }
    }

    /// Runs something on the router.
    pub(crate) fn on_router(&self, what: impl FnOnce() + Send) {
        inside(self.router.as_ref().unwrap(), async move |_| what());
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

    /// Does something to a host's tunnels.
    pub(crate) fn turn<T: Send>(&mut self, number: u8, what: impl FnOnce(&mut Engine) -> T + Send) -> T {
        let at = usize::from(number) - 1;
        let (namespace, engine) = (&self.namespaces[at], &mut self.engines[at]);
        inside(namespace, async move |_| what(engine))
    }

    pub(crate) fn counters(&self, number: u8, network: u8) -> &Arc<Counters> {
        self.engines[usize::from(number) - 1].counters(device(network)).unwrap()
    }

    /// What came in that is of no network.
    pub(crate) fn strays(&self, number: u8) -> &Arc<Counters> {
        self.engines[usize::from(number) - 1].strays().next().unwrap().1
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
    let mut v6 = handle.address().add(index, endpoint(number, true).ip(), 64);
    // Bound to at once.
    v6.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    v6.execute().await.unwrap();
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
}

/// The router's address on the link of a host.
fn gateway(number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(198, 51, 100, number).into()
    }
}

/// The host's end of the wire to a router.
async fn behind_router(handle: &Handle, number: u8) {
    let index = if_nametoindex("eth0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    for v6 in [false, true] {
        let length = if v6 { 128 } else { 32 };
        let mut add = handle.address().add(index, endpoint(number, v6).ip(), length);
        // Bound to at once.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        add.execute().await.unwrap();
        match gateway(number, v6) {
            IpAddr::V4(gateway) => {
                let link = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(gateway, 32);
                let link = link.scope(RouteScope::Link).output_interface(index);
                handle.route().add(link.build()).execute().await.unwrap();
                let all = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
                handle.route().add(all.build()).execute().await.unwrap();
            }
            IpAddr::V6(gateway) => {
                let link = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(gateway, 128);
                handle.route().add(link.output_interface(index).build()).execute().await.unwrap();
                let all = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway);
                handle.route().add(all.output_interface(index).build()).execute().await.unwrap();
            }
        }
    }
}

/// The host's networks, each with a device, its pods' addresses and the way to those of the other host.
async fn networks(handle: &Handle, number: u8, v6: bool, shelf: &Shelf) -> Engine {
    let other = 3 - number;
    let mut engine = Engine::with(shelf.found());
    for network in NETWORKS {
        let device = device(network);
        let remotes = Remotes::from([(endpoint(other, v6), behind(network, other))]);
        engine.listen(device, listening(network, number, v6), &remotes).unwrap();
        let index = if_nametoindex(device.as_str()).unwrap();
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0").unwrap();
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
        for v6 in [false, true] {
            let length = if v6 { 128 } else { 32 };
            handle.address().add(index, pod(network, number, v6), length).execute().await.unwrap();
        }
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(10, network, other, 0), 24)
            .output_interface(index);
        handle.route().add(v4.build()).execute().await.unwrap();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::new(0xfd00, network.into(), other.into(), 0, 0, 0, 0, 0), 48)
            .output_interface(index);
        handle.route().add(v6.build()).execute().await.unwrap();
    }
    engine
}

/// How a host receives for a network, over one family.
pub(crate) fn listening(network: u8, number: u8, v6: bool) -> Listening {
    Listening {
        vni: vni(network),
        locals: vec![endpoint(number, v6)],
        keys: vec![key(network, number)],
        mtu: 1400,
        limits: Limits::default(),
    }
}

/// A host, for the other one.
pub(crate) fn behind(network: u8, number: u8) -> Behind {
    let subnets = [format!("10.{network}.{number}.0/24"), format!("fd00:{network}:{number}::/48")];
    let subnets = Subnets::new(subnets.map(|subnet| subnet.parse().unwrap())).unwrap();
    Behind { key: key(network, number), subnets }
}
