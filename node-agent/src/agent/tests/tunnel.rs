//! A network over UDP: this process has the tunnel's key, and tells it to nobody but the control plane.

use std::net::SocketAddr;
use std::time::Duration;

use loden_datapath::Rungs;
use loden_datapath::tables::{Kind, RemoteKey};
use loden_datapath::tunnel::engine::Behind;
use loden_proto::model::{Backend, Family, Key, Network, Peer, Port, Receiver, UdpBackend, UdpReceiver};
use loden_proto::v1;
use tokio::time::sleep;

use super::settle;
use crate::testing::{World, network, peer};

fn udp() -> Network {
    Network { backend: Backend::Udp(UdpBackend::default()), ..network() }
}

fn key(number: u64) -> Key {
    Key::try_from(number).unwrap()
}

/// `node-N` with the key N.
fn udp_peer(number: u8) -> Peer {
    let mut peer = peer(number);
    peer.endpoint.receivers = vec![Receiver::Udp(UdpReceiver {
        family: Family::V4,
        vni: udp().vni,
        port: Port::UDP,
        key: key(number.into()),
        mtu: 1460,
    })];
    peer
}

/// The keys that were told, in order.
fn told(world: &World) -> Vec<u64> {
    let endpoints = world.server.endpoints();
    let endpoints = endpoints.borrow();
    let receivers = endpoints.iter().flat_map(|endpoint| &endpoint.receivers);
    let keys = receivers.map(|receiver| match &receiver.kind {
        Some(v1::receiver::Kind::Udp(udp)) => udp.key,
        other => panic!("{other:?} is no tunnel"),
    });
    keys.collect()
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_made_and_its_key_told_and_kept() {
    let mut world = World::with(udp());
    let agent = world.start();
    let watch = world.watch().await;
    watch.snapshot(&world.network, &[udp_peer(1), udp_peer(2)], false, 1).await;
    assert_eq!(agent.ready().await, "default: 2 peers from server");
    settle().await;
    let tables = world.kernel.tables();
    let (device, tun) = tables.devices.first_key_value().unwrap();
    assert_eq!((device.as_str(), &tun.kind, tun.mtu), ("loden1u", &Kind::Tun, 1460));
    assert_eq!(world.routes(), ["10.244.1.0/24", "10.244.2.0/24"]);
    let endpoint: SocketAddr = "192.0.2.1:8285".parse().unwrap();
    let behind = Behind { key: key(1), subnets: peer(1).subnets };
    assert_eq!(tables.remotes.get(&RemoteKey { device: *device, endpoint }), Some(&behind));
    assert!(world.subnet_env().contains("FLANNEL_MTU=1460"), "{}", world.subnet_env());

    let own = tables.listening[device].keys.clone();
    assert_eq!((told(&world), own.len()), (vec![own[0].get()], 1));
    agent.stop().await;
    let executed = world.kernel.executed().len();
    world.server.up(false);
    let agent = world.start();
    agent.ready().await;
    settle().await;
    assert_eq!(world.kernel.tables().listening[device].keys, own, "peers that hear of no other one know it");
    assert_eq!(world.kernel.executed().len(), executed);
}

#[tokio::test(start_paused = true)]
async fn a_node_may_receive_on_another_port_than_its_peers() {
    let mut world = World::with(udp());
    world.udp_port = Some(9285.try_into().unwrap());
    let agent = world.start();
    let watch = world.watch().await;
    watch.snapshot(&world.network, &[udp_peer(1)], false, 1).await;
    agent.ready().await;
    settle().await;
    let endpoints = world.server.endpoints();
    let receivers = endpoints.borrow().last().map(|endpoint| endpoint.receivers.clone()).unwrap();
    assert!(
        matches!(receivers[0].kind, Some(v1::receiver::Kind::Udp(udp)) if udp.port == 9285),
        "{receivers:?}"
    );
    let remotes: Vec<_> = world.kernel.tables().remotes.keys().map(|remote| remote.endpoint).collect();
    assert_eq!(remotes, ["192.0.2.1:8285".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_another_key_or_of_another_network_is_taken_as_it_is() {
    let mut world = World::with(udp());
    let agent = world.start();
    let watch = world.watch().await;
    let mut vxlan = peer(3);
    vxlan.endpoint.v4 = Some([192, 0, 2, 33].into());
    watch.snapshot(&world.network, &[udp_peer(1), vxlan], false, 1).await;
    // One that is not where the network is yet offers nothing that fits.
    assert_eq!(agent.ready().await, "default: 1 peers from server, 1 not ready to receive yet");
    let mut turned = udp_peer(1);
    let Receiver::Udp(receiver) = &mut turned.endpoint.receivers[0] else { unreachable!("it is a tunnel's") };
    receiver.key = key(77);
    let executed = world.kernel.executed().len();
    watch.delta(&[turned], &[], 2).await;
    settle().await;
    let steps: Vec<_> = world.kernel.executed()[executed..].iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["+ remote 192.0.2.1:8285 dev loden1u"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_tunnel_steps_down_to_is_told_and_one_that_has_ended_is_started_again() {
    let mut world = World::with(udp());
    let agent = world.start();
    let watch = world.watch().await;
    watch.snapshot(&world.network, &[udp_peer(1)], false, 1).await;
    agent.ready().await;
    let endpoint: SocketAddr = "192.0.2.1:8285".parse().unwrap();
    world.kernel.step(Rungs { singly: vec![endpoint], ..Rungs::default() });
    let mut reports = world.server.reports();
    let told = |reports: &Vec<v1::ReportStatusRequest>| {
        reports.last().is_some_and(|last| last.warnings.iter().any(|warning| warning.contains("UDP_SEGMENT")))
    };
    reports.wait_for(told).await.unwrap();

    // Nobody is told when its threads end.
    let listening = world.kernel.tables().listening;
    world.kernel.change(|tables| tables.listening.clear());
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.kernel.tables().listening, listening);
}
