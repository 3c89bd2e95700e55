//! Devices in a real kernel, in a network namespace per test.

#![allow(clippy::unwrap_used, reason = "a failure ends the test, with its place")]

mod support;

use std::net::Ipv4Addr;

use loden_datapath::{Datapath, Error, Host, Step, Tables, plan};
use loden_proto::model::{Backend, Network, Peer, Port, Receiver, VxlanBackend};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoVxlan, LinkAttribute, LinkInfo,
};
use rtnetlink::{LinkUnspec, LinkVxlan};
use support::netns::{Apart, desired, foreign, in_namespace, lines, name};
use support::{dual_underlay, me, mtu, network, network_v4, peer, vni};

#[test]
fn the_device_is_made_as_flannel_makes_it() {
    in_namespace(async |mut net| {
        let network = network_v4();
        net.converge(&network, &desired(&network, &me(&network), &[])).await;
        let vxlan = net.attribute("loden1a", |attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else { return None };
            infos.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.clone()),
                _ => None,
            })
        });
        let vxlan = vxlan.await.unwrap();
        let eth0 = net.index("eth0").await.unwrap();
        for wanted in [
            InfoVxlan::Id(1),
            InfoVxlan::Port(8472),
            InfoVxlan::Local(Ipv4Addr::new(192, 0, 2, 1)),
            InfoVxlan::Link(eth0),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(true),
            InfoVxlan::UDPZeroCsumTX(false),
            InfoVxlan::UDPZeroCsumRX(false),
            InfoVxlan::Ttl(0),
            InfoVxlan::Tos(0),
            InfoVxlan::L2Miss(false),
            InfoVxlan::Proxy(false),
        ] {
            assert!(vxlan.contains(&wanted), "{wanted:?} in {vxlan:?}");
        }
        let queue = net.attribute("loden1a", |attribute| match attribute {
            LinkAttribute::TxQueueLen(length) => Some(*length),
            _ => None,
        });
        assert_eq!(queue.await, Some(0));
        // addrgenmode none was set before it came up: no link-local address.
        let facts = net.kernel.facts().await.unwrap();
        let device = facts.interface(name("loden1a")).unwrap();
        let addresses: Vec<_> = device.addresses.iter().map(|address| address.net.to_string()).collect();
        assert_eq!(addresses, ["10.244.1.0/32"]);
        assert!(device.ours);
    });
}

#[test]
fn a_new_vni_or_port_makes_the_device_again_with_everything_on_it() {
    in_namespace(async |mut net| {
        let mut network = network();
        let me = dual_underlay(me(&network));
        let peers = |network: &Network| vec![peer(network, 2), peer(network, 3)];
        net.converge(&network, &desired(&network, &me, &peers(&network))).await;

        network.vni = vni(2);
        net.converge(&network, &desired(&network, &me, &peers(&network))).await;
        assert_eq!(net.index("loden1a").await, None);
        assert!(net.index("loden2a").await.is_some());

        let port = Port::try_from(4789).unwrap();
        network.backend = Backend::Vxlan(VxlanBackend { port, ..VxlanBackend::default() });
        let again = net.converge(&network, &desired(&network, &me, &peers(&network))).await;
        assert!(lines(&again).contains(&"- device loden2a".to_owned()), "{:?}", lines(&again));

        network.backend = Backend::Vxlan(VxlanBackend { port, gbp: true, ..VxlanBackend::default() });
        let with_gbp: Vec<Peer> = peers(&network)
            .into_iter()
            .map(|mut peer| {
                let Receiver::Vxlan(vtep) = &mut peer.endpoint.receivers[0] else {
                    unreachable!("it has one")
                };
                vtep.gbp = true;
                peer
            })
            .collect();
        net.converge(&network, &desired(&network, &me, &with_gbp)).await;
    });
}

#[test]
fn what_the_kernel_can_change_is_changed_live() {
    in_namespace(async |mut net| {
        let mut network = network();
        let mut me = me(&network);
        let peers = [peer(&network, 2)];
        net.converge(&network, &desired(&network, &me, &peers)).await;
        let index = net.index("loden1a").await;

        me.mac = [2, 0, 0, 0, 1, 1].try_into().unwrap();
        me.underlay.v4 = Some(Ipv4Addr::new(192, 0, 2, 77));
        me.underlay.lower = name("far0");
        me.subnets = support::subnets(200, true);
        network.mtu = mtu(1300);
        network.backend = Backend::Vxlan(VxlanBackend { learning: true, ..VxlanBackend::default() });
        let changed = net.converge(&network, &desired(&network, &me, &peers)).await;
        assert!(!lines(&changed).iter().any(|line| line.contains("- device")), "{:?}", lines(&changed));
        assert_eq!(net.index("loden1a").await, index);
    });
}

#[test]
fn a_device_that_was_tampered_with_is_repaired() {
    in_namespace(async |mut net| {
        let network = network();
        let me = me(&network);
        let wanted = desired(&network, &me, &[peer(&network, 2), peer(&network, 3)]);
        net.converge(&network, &wanted).await;
        let index = net.index("loden1a").await.unwrap();
        net.set(LinkUnspec::new_with_index(index).down()).await;
        net.set(LinkUnspec::new_with_index(index).mtu(1300).address(vec![2, 0, 0, 0, 9, 9])).await;
        let eui64 = AfSpecInet6::AddrGenMode(rtnetlink::packet_route::link::In6AddrGenMode::Eui64);
        let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![eui64])]);
        net.set(LinkUnspec::new_with_index(index).append_extra_attribute(spec)).await;
        let repair = net.converge(&network, &wanted).await;
        let repair = lines(&repair);
        assert!(repair.contains(&"~ device loden1a up".to_owned()), "{repair:?}");
        assert!(repair.contains(&"~ device loden1a addrgenmode none".to_owned()), "{repair:?}");
        assert_eq!(net.index("loden1a").await, Some(index));
    });
}

#[test]
fn a_device_that_was_too_small_for_ipv6_gets_it_back_in_one_pass() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &me(&network), &[peer(&network, 2)]);
        net.converge(&network, &wanted).await;
        let index = net.index("loden1a").await.unwrap();
        net.set(LinkUnspec::new_with_index(index).mtu(1200)).await;
        net.converge(&network, &wanted).await;
    });
}

#[test]
fn a_device_without_its_alias_is_taken_back() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let wanted = desired(&network, &me(&network), &[peer(&network, 2)]);
        // As a process leaves it that ends right after creating it.
        let create = plan(&Tables::default(), &wanted).into_steps().remove(0);
        assert!(matches!(create, Step::CreateDevice(..)));
        assert!(net.run([create]).await.is_complete());
        let rest = net.converge(&network, &wanted).await;
        assert!(lines(&rest).contains(&"~ device loden1a alias loden:default:vxlan-ipv4".to_owned()));
    });
}

#[test]
fn a_foreign_device_in_the_way_is_named() {
    in_namespace(async |mut net| {
        let network = network_v4();
        let wanted = desired(&network, &me(&network), &[]);
        let flannel = LinkVxlan::new("flannel.1", 1).port(8472).build();
        net.stranger.link().add(flannel).execute().await.unwrap();
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let (step, error) = &report.failed[0];
        assert!(matches!(step, Step::CreateDevice(..)));
        assert!(
            matches!(error, Error::VniTaken { holder, vni: 1, port: 8472 } if holder == "flannel.1"),
            "{error}"
        );

        let flannel = net.index("flannel.1").await.unwrap();
        net.stranger.link().del(flannel).execute().await.unwrap();
        let other = rtnetlink::LinkBridge::new("loden1a").build();
        net.stranger.link().add(other).execute().await.unwrap();
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let error = report.failed[0].1.to_string();
        assert!(error.contains("loden1a") && error.contains("bridge"), "{error}");
    });
}

#[test]
fn a_tunnel_that_was_moved_to_another_namespace_is_made_anew() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &dual_underlay(me(&network)), &[peer(&network, 2)]);
        net.converge(&network, &wanted).await;
        let apart = Apart::new();
        for device in ["loden1a", "loden1b"] {
            foreign(&format!("ip link set {device} netns {}", apart.path()));
            let again = net.converge(&network, &wanted).await;
            assert!(lines(&again).iter().any(|line| line.starts_with(&format!("+ device {device}"))));
            let there = apart.run(|| foreign("ip link"));
            assert!(!there.contains("loden"), "nobody needs it: {there}");
        }
    });
}

#[test]
fn a_foreign_device_in_another_namespace_is_named_and_stays() {
    in_namespace(async |mut net| {
        let network = network();
        let wanted = desired(&network, &dual_underlay(me(&network)), &[]);
        foreign("ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1");
        let apart = Apart::new();
        foreign(&format!("ip link set flannel.1 netns {}", apart.path()));
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let failed: Vec<_> = report.failed.iter().map(|(_, error)| error.to_string()).collect();
        let named = "the device flannel.1 in another network namespace has VNI 1 on port 8472 already";
        assert!(failed[0].starts_with(named), "{failed:?}");
        assert!(
            failed[1..].iter().all(|error| error == "there is no device loden1a"),
            "loden1b is made: {failed:?}"
        );

        // Where it went from there nobody here knows.
        let further = Apart::new();
        let there = further.path();
        apart.run(move || foreign(&format!("ip link set flannel.1 netns {there}")));
        let report = net.kernel.execute(&plan(&Tables::default(), &wanted)).await;
        let error = report.failed[0].1.to_string();
        assert!(error.contains("moved to another network namespace has VNI 1 on port 8472 still"), "{error}");
        assert!(further.run(|| foreign("ip link")).contains("flannel.1"));
    });
}
