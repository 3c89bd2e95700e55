//! The UDP tunnel as one of a network's backends, in a real kernel.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use loden_datapath::backend::{self, Me, device_names};
use loden_datapath::kernel::{Kernel, Tunnels};
use loden_datapath::tunnel::engine::Behind;
use loden_datapath::tunnel::held::Holder;
use loden_datapath::{Datapath, Error, Host, Scope, Step, Tables, plan};
use loden_proto::model::{Backend, Network, Peer, Pool, Receiver, UdpBackend, UdpReceiver};
use support::netns::{Net, concerned, desired, foreign, in_namespace, lines, name, scope};
use support::shelf::Shelf;
use support::{dual_underlay, key, udp, udp_peer, vni};

/// A node of a UDP network with two peers.
async fn joined(net: &mut Net) -> (Network, Me, Tables) {
    let (network, me) = udp();
    let wanted = desired(&network, &me, &[2, 3].map(|node| udp_peer(&network, node)));
    net.converge(&network, &wanted).await;
    (network, me, wanted)
}

#[test]
fn a_network_comes_changes_and_leaves() {
    in_namespace(async |mut net| {
        let (network, me, _) = joined(&mut net).await;
        let link = foreign("ip -d link show loden1u");
        for part in [
            "mtu 1460",
            "alias loden:default:udp",
            "addrgenmode none",
            "tun type tun",
            "multi_queue",
            "persist on",
        ] {
            assert!(link.contains(part), "{part}: {link}");
        }
        assert!(link.contains(",UP,LOWER_UP>"), "{link}");
        assert_eq!(foreign("ip -6 -o address show dev loden1u scope link"), "");
        let routes = foreign("ip route show dev loden1u");
        assert!(routes.contains("10.244.2.0/24 proto 76 scope link metric 3"), "{routes}");

        // Another key of ours, and a peer behind another address: nothing is made anew.
        let me = Me { keys: vec![key(9), key(1)], ..me };
        let mut peers = [2, 3].map(|node| udp_peer(&network, node));
        peers[0].endpoint.v4 = Some("192.0.2.22".parse().unwrap());
        let wanted = desired(&network, &me, &peers);
        let done = lines(&net.converge(&network, &wanted).await);
        assert_eq!(
            done,
            [
                "+ tunnel loden1u vni 1 mtu 1460 local 192.0.2.1:8285",
                "+ remote 192.0.2.22:8285 dev loden1u",
                "- remote 192.0.2.2:8285 dev loden1u"
            ]
        );
        net.converge(&network, &Tables::default()).await;
        assert_eq!(net.index("loden1u").await, None);
        UdpSocket::bind("192.0.2.1:8285").expect("nobody holds the port any more");
    });
}

#[test]
fn what_is_told_to_others_is_what_is_listened_on() {
    in_namespace(async |mut net| {
        let (network, me) = udp();
        let me = dual_underlay(me);
        // Nobody is asked whether somebody else has it, which takes a second.
        foreign("ip address del 2001:db8:ffff::1/64 dev eth0");
        foreign("ip address add 2001:db8:ffff::1/64 dev eth0 nodad");
        let wanted = desired(&network, &me, &[udp_peer(&network, 2)]);
        assert_eq!(backend::receivers(&network, &me, &Tables::default()), []);
        net.converge(&network, &wanted).await;
        let actual = net.kernel.observe(&scope(&network)).await.unwrap();
        let told = backend::receivers(&network, &me, &actual);
        let udp: Vec<&UdpReceiver> = told
            .iter()
            .filter_map(|receiver| if let Receiver::Udp(udp) = receiver { Some(udp) } else { None })
            .collect();
        assert_eq!(udp.len(), told.len());
        let of: Vec<_> =
            udp.iter().map(|udp| (udp.family.to_string(), udp.port.get(), udp.key, udp.mtu)).collect();
        assert_eq!(of, [("IPv4".to_owned(), 8285, key(1), 1440), ("IPv6".to_owned(), 8285, key(1), 1440)]);
    });
}

/// Its descriptors end with it; the device, and what leads there, do not.
#[test]
fn a_process_that_takes_over_writes_nothing_by_netlink() {
    in_namespace(async |mut net| {
        let (network, _, wanted) = joined(&mut net).await;
        let index = net.index("loden1u").await;
        net.kernel = Kernel::open().unwrap();
        let failed = async {
            // The old one ends when its thread does.
            while UdpSocket::bind("192.0.2.1:8285").is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), failed).await.unwrap();
        let done = net.converge(&network, &wanted).await;
        assert!(
            done.steps().iter().all(|step| matches!(step, Step::Listen(..) | Step::SetRemote(..))),
            "{:?}",
            lines(&done)
        );
        assert_eq!((done.len(), net.kernel.writes().count()), (3, 0));
        assert_eq!(net.index("loden1u").await, index);
    });
}

#[test]
fn what_a_foreign_hand_does_to_the_device_is_undone() {
    in_namespace(async |mut net| {
        let (network, _, wanted) = joined(&mut net).await;
        for change in [
            "ip link del loden1u",
            "ip link set loden1u down",
            "ip link set loden1u mtu 1000",
            "ip addr flush dev loden1u",
            "ip link set loden1u alias mine",
            "ip route del 10.244.2.0/24",
            "ip route replace 10.244.2.0/24 via 192.0.2.9 metric 3 proto 76",
            "ip -6 route flush dev loden1u",
        ] {
            let mut hints = net.kernel.hints().await.unwrap();
            foreign(change);
            concerned(&mut hints, &wanted).await;
            // One that held what was deleted may not have noticed yet.
            let todo = plan(&net.kernel.observe(&scope(&network)).await.unwrap(), &wanted);
            assert!(!todo.is_empty(), "{change}");
            let report = net.kernel.execute(&todo).await;
            assert!(report.is_complete(), "{change}: {:?}", report.failed);
            assert_eq!(net.kernel.observe(&scope(&network)).await.unwrap(), wanted, "{change}");
        }
    });
}

#[test]
fn networks_share_a_port_and_a_strangers_port_is_told() {
    in_namespace(async |mut net| {
        let tunnels = Tunnels::default();
        net.kernel = Kernel::open_with(tunnels.clone()).unwrap();
        let (network, _, wanted) = joined(&mut net).await;
        let (blue, me) = udp();
        let blue = Network {
            id: "blue".parse().unwrap(),
            vni: vni(2),
            pools: vec![Pool::new("10.9.0.0/16".parse().unwrap(), None).unwrap()],
            ..blue
        };
        let me = Me { subnets: subnets("10.9.1.0/24"), ..me };
        let peer = Peer { subnets: subnets("10.9.2.0/24"), ..udp_peer(&blue, 2) };
        let other = desired(&blue, &me, &[peer]);
        let mut second = Kernel::open_with(tunnels.clone()).unwrap();
        let all = plan(&Tables::default(), &other);
        assert!(second.execute(&all).await.is_complete());
        assert_eq!(second.observe(&backend::scope(&blue, me.mac)).await.unwrap(), other);
        assert_eq!(net.kernel.observe(&scope(&network)).await.unwrap(), wanted);
        let behind: Vec<Behind> = device_names(vni(2))
            .iter()
            .flat_map(|device| tunnels.lock().remotes(*device).cloned().unwrap_or_default().into_values())
            .collect();
        assert_eq!(behind, [Behind { key: key(102), subnets: subnets("10.9.2.0/24") }]);

        // Somebody else has the port.
        net.converge(&network, &Tables::default()).await;
        second.execute(&plan(&other, &Tables::default())).await;
        let _squatter = UdpSocket::bind("192.0.2.1:8285").unwrap();
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let told: Vec<_> = report.failed.iter().map(|(step, _)| step.to_string()).collect();
        assert!(told[0].starts_with("+ tunnel loden1u"), "{told:?}");
        assert!(
            matches!(&report.failed[0].1, Error::Tunnel { device, source }
                if *device == name("loden1u") && source.kind() == io::ErrorKind::AddrInUse),
            "{:?}",
            report.failed[0]
        );
    });
}

/// A process that finds what lies on a shelf.
fn the_next(shelf: &Shelf) -> Kernel {
    Kernel::open_with(Tunnels::with(shelf.found())).unwrap()
}

#[test]
fn what_is_held_is_taken_up_and_let_go_when_nobody_needs_it() {
    in_namespace(async |mut net| {
        let shelf = Shelf::default();
        net.kernel = the_next(&shelf);
        let (network, me, wanted) = joined(&mut net).await;
        assert_eq!(shelf.names(), ["loden1u", "udp-8285-c0000201"]);
        let before = foreign("ip link show loden1u");

        // The port is bound all the while: nobody could open it anew.
        net.kernel = the_next(&shelf);
        assert!(UdpSocket::bind("192.0.2.1:8285").is_err());
        net.converge(&network, &wanted).await;
        assert_eq!((foreign("ip link show loden1u"), net.kernel.writes().count()), (before, 0));

        // On another port the old one is let go.
        let backend = Backend::Udp(UdpBackend { port: 8286.try_into().unwrap(), ..UdpBackend::default() });
        let moved = Network { backend, ..network };
        let wanted = desired(&moved, &me, &[2, 3].map(|node| udp_peer(&moved, node)));
        net.converge(&moved, &wanted).await;
        assert_eq!(shelf.names(), ["loden1u", "udp-8286-c0000201"]);

        // A device that is another one now, and a port that no network has.
        let stray = UdpSocket::bind("192.0.2.1:9").unwrap();
        shelf.hold("udp-9-c0000201", stray.as_fd()).unwrap();
        foreign("ip link del loden1u");
        net.kernel = the_next(&shelf);
        net.converge(&moved, &wanted).await;
        assert_eq!(shelf.names(), ["loden1u", "udp-8286-c0000201", "udp-9-c0000201"]);
        let all = Some(scope(&moved).pools);
        assert_eq!(net.kernel.observe(&Scope { all, ..scope(&moved) }).await.unwrap(), wanted);
        assert_eq!(shelf.names(), ["loden1u", "udp-8286-c0000201"]);
        net.converge(&moved, &Tables::default()).await;
        assert_eq!(shelf.names(), Vec::<String>::new());
    });
}

fn subnets(text: &str) -> loden_proto::model::Subnets {
    loden_proto::model::Subnets::new([text.parse().unwrap()]).unwrap()
}
