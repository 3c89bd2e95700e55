//! Loden's VXLAN is flannel's: on the wire, in the kernel, and beside a VTEP that was made by hand
//! as flannel makes it.

#![cfg(test)]

mod frame;
mod hand;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, ensure};
use loden_proto::v1::{self, lease_service_client::LeaseServiceClient};
use loden_tests::{
    deployment::{Deployment, Node},
    hosts::{Container, Namespace, destination, link_layer_address},
    traffic::{Capture, Direction, Ping},
    wait,
};
use netlink_packet_route::{
    address::AddressAttribute,
    link::{InfoVxlan, LinkAttribute},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType},
};

use crate::frame::Encapsulated;
use crate::hand::{Flannel, vxlan_settings};

const SOON: Duration = Duration::from_secs(30);
/// All three bytes of it differ.
const VNI: u32 = 0x00ab_cdef;
const DEVICE: &str = "loden11259375a";
const POOL: &str = "10.244.0.0/16";
/// Our number in `rtm_protocol` and `NDA_PROTOCOL`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(76);

async fn network(deployment: &Deployment) -> anyhow::Result<()> {
    let create = ["network", "create", "default", "--pool", POOL, "--vni", &VNI.to_string()];
    deployment.lodenctl(&create).await.map(drop)
}

/// What the control plane tells of everybody, by node.
async fn peers(deployment: &Deployment) -> anyhow::Result<BTreeMap<String, hand::Peer>> {
    let control = &deployment.control;
    let mut leases = LeaseServiceClient::new(control.channel(&control.admin_identity()).await?);
    let request = v1::ListLeasesRequest { parent: "networks/default".into(), ..Default::default() };
    let listed = leases.list_leases(request).await?.into_inner().leases;
    listed.iter().map(|lease| hand::Peer::of(lease).map(|peer| (peer.node.clone(), peer))).collect()
}

/// Waits until a node's kernel leads to exactly these peers.
async fn leads_to(node: &Node, peers: &[&hand::Peer]) -> anyhow::Result<()> {
    let what = format!("{} to lead to {} peers", node.name, peers.len());
    let settled = wait::until(&what, SOON, async || {
        let tunnel = node.host.tunnel(DEVICE).await?;
        let fdb = peers.iter().map(|peer| (peer.mac.to_vec(), IpAddr::V4(peer.underlay))).collect();
        let neighbours = peers.iter().map(|peer| (peer.gateway(), peer.mac.to_vec())).collect();
        let routes = peers.iter().map(|peer| (peer.subnet.into(), peer.gateway())).collect();
        let wanted = loden_tests::hosts::Tunnel { fdb, neighbours, routes };
        ensure!(tunnel == wanted, "it is {tunnel:?}, not {wanted:?}");
        Ok(())
    });
    Ok(settled.await?)
}

/// Sends one datagram from a container to another, which takes it only with the right checksum.
fn datagram(from: &Container, to: &Container) -> anyhow::Result<()> {
    let target = SocketAddr::new(to.address(), 4000);
    let receiver = to.enter(|| UdpSocket::bind(target))?;
    receiver.set_read_timeout(Some(SOON))?;
    from.enter(|| UdpSocket::bind((from.address(), 0))?.send_to(b"one packet over VXLAN", target))?;
    let mut buffer = [0; 64];
    let (length, _) = receiver.recv_from(&mut buffer)?;
    ensure!(&buffer[..length] == b"one packet over VXLAN");
    Ok(())
}

async fn reach(from: &Container, to: &Container) -> anyhow::Result<()> {
    let ping = Ping::to(to.address()).start(from)?;
    ping.reach(SOON).await?;
    // What was sent before both sides led to each other may be lost.
    ping.stop().await?;
    let report = {
        let ping = Ping::to(to.address()).start(from)?;
        for _ in 0..20 {
            ping.reach(SOON).await?;
        }
        ping.stop().await?
    };
    ensure!(report.lost() == 0, "{report}");
    Ok(())
}

struct ThreeHosts {
    deployment: Deployment,
    a: Node,
    b: Node,
    c: Flannel,
    pods: [Container; 3],
}

/// Two hosts with agents and one whose VTEP was made by hand as flannel's, with a container each.
async fn three_hosts(name: &str) -> anyhow::Result<ThreeHosts> {
    let deployment = Deployment::start(name, &[]).await?;
    network(&deployment).await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    let c = Flannel::join(&deployment, "c", 13, VNI).await?;
    // Published once the device is there.
    let all = wait::until("all to receive", SOON, async || {
        let peers = peers(&deployment).await?;
        ensure!(peers.len() == 3, "there are {:?}", peers.keys());
        Ok::<_, anyhow::Error>(peers)
    });
    let all = all.await?;
    for other in ["a", "b"] {
        c.lead_to(&all[other]).await?;
    }
    leads_to(&a, &[&all["b"], &all["c"]]).await?;
    leads_to(&b, &[&all["a"], &all["c"]]).await?;
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?, c.attach("pod-c").await?];
    Ok(ThreeHosts { deployment, a, b, c, pods })
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_wire_it_is_flannels_vxlan() -> anyhow::Result<()> {
    let ThreeHosts { deployment, pods, .. } = three_hosts("wire").await?;
    let peers = peers(&deployment).await?;
    let [pod_a, pod_b, pod_c] = &pods;
    let vxlan = |frame: &[u8]| Encapsulated::parse(frame).is_ok();
    let capture = Capture::start(&deployment.fabric, "a-eth0", vxlan).await?;
    for (from, to) in [(pod_a, pod_b), (pod_a, pod_c), (pod_c, pod_a), (pod_b, pod_c)] {
        reach(from, to).await?;
    }
    datagram(pod_a, pod_b)?;
    datagram(pod_b, pod_a)?;
    datagram(pod_a, pod_c)?;
    datagram(pod_c, pod_a)?;
    // Both directions of the same capture: the port's "in" is what the host sent.
    let frames = capture.stop()?;
    let mut seen = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for frame in &frames {
        let parsed = Encapsulated::parse(&frame.bytes)?;
        let (from, to) = parsed.between(&peers)?;
        let sent = frame.direction == Direction::In;
        ensure!(sent == (from == "a"), "{from} to {to} went {:?}", frame.direction);
        let (sender, receiver) = (&peers[from], &peers[to]);
        // Outer: the hosts' addresses, flannel's port, a checksum, flow entropy in the source port.
        ensure!(parsed.outer_destination_port == 8472, "{parsed:?}");
        ensure!(parsed.outer_source_port >= 1024, "{parsed:?}");
        ensure!(parsed.outer_checksum != 0, "no outer UDP checksum: {parsed:?}");
        ensure!(parsed.outer_macs == [host_mac(&deployment, from).await?, host_mac(&deployment, to).await?]);
        // VXLAN: only the I flag, our VNI, reserved bits zero (RFC 7348 §5).
        ensure!(parsed.vxlan == [0x08, 0, 0, 0, 0xab, 0xcd, 0xef, 0], "{parsed:?}");
        // Inner: from VTEP to VTEP, from container to container.
        ensure!(parsed.inner_macs == [sender.mac, receiver.mac], "{from} to {to}: {parsed:?}");
        ensure!(sender.subnet.contains(&parsed.inner_addresses[0]), "{from} to {to}: {parsed:?}");
        ensure!(receiver.subnet.contains(&parsed.inner_addresses[1]), "{from} to {to}: {parsed:?}");
        if parsed.inner_is_udp {
            let full = frame::whole_outer_checksum(&frame.bytes)?;
            ensure!(parsed.outer_checksum == full, "{:#06x} is not {full:#06x}", parsed.outer_checksum);
            *seen.entry((from.to_owned(), to.to_owned())).or_insert(0) += 1;
        }
        shapes.entry(parsed.shape()).or_insert_with(Vec::new).push(from.to_owned());
    }
    let datagrams: Vec<_> = seen.iter().map(|((from, to), count)| format!("{from}{to}{count}")).collect();
    ensure!(datagrams == ["ab1", "ac1", "ba1", "ca1"], "{datagrams:?}");
    // What is left to choose (TTL, DSCP, DF, …) is as in the frames of the VTEP made by hand.
    println!("{} frames; header shapes and who sent them: {:?}", frames.len(), shapes.keys());
    for (shape, from) in &shapes {
        ensure!(["a", "b", "c"].iter().all(|node| from.iter().any(|sender| sender == node)), "{shape:?}");
    }
    Ok(())
}

/// The MAC address of a host's NIC.
async fn host_mac(deployment: &Deployment, node: &str) -> anyhow::Result<[u8; 6]> {
    // The bridge's port has the other end's address; the fabric has learnt the host's.
    let port = deployment.fabric.link_index(&format!("{node}-eth0")).await?;
    let fdb = deployment.fabric.fdb().await?;
    let learnt = fdb
        .iter()
        .filter(|entry| entry.header.ifindex == port && entry.header.state != NeighbourState::Permanent);
    let mac = learnt.filter_map(link_layer_address).next().context("the fabric has not heard of it")?;
    mac.try_into().map_err(|mac| anyhow::anyhow!("{mac:?} is no MAC address"))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_kernel_it_is_what_flannel_makes() -> anyhow::Result<()> {
    let ThreeHosts { deployment, a, c, .. } = three_hosts("kernel").await?;
    let peers = peers(&deployment).await?;
    let (me, b) = (&peers["a"], &peers["b"]);

    // The device (1, 10-12, 14): the same settings, UDP checksums on, learning off.
    let ours = a.host.link(DEVICE).await?;
    let settings = vxlan_settings(&ours);
    ensure!(settings == vxlan_settings(&c.device().await?), "{settings:?}");
    for wanted in [
        InfoVxlan::Id(VNI),
        InfoVxlan::Port(8472),
        InfoVxlan::Learning(false),
        InfoVxlan::UDPCsum(true),
        InfoVxlan::UDPZeroCsumTX(false),
    ] {
        ensure!(settings.contains(&wanted), "{wanted:?} is not in {settings:?}");
    }
    ensure!(ours.attributes.contains(&LinkAttribute::Mtu(1450)), "{ours:?}");
    ensure!(ours.attributes.contains(&LinkAttribute::Address(me.mac.to_vec())), "published: {:?}", me.mac);
    ensure!(ours.attributes.contains(&LinkAttribute::IfAlias("loden:default:vxlan-ipv4".into())));
    let index = ours.header.index;

    // The address (9): the subnet's base, as /32: no connected and no broadcast route comes of it.
    let addresses = a.host.addresses().await?;
    let addresses: Vec<_> = addresses.iter().filter(|address| address.header.index == index).collect();
    let [address] = addresses.as_slice() else { anyhow::bail!("{addresses:?}") };
    ensure!(address.header.prefix_len == 32, "{address:?}");
    ensure!(address.attributes.contains(&AddressAttribute::Local(me.gateway())), "{address:?}");
    ensure!(!address.attributes.iter().any(|part| matches!(part, AddressAttribute::Broadcast(_))));

    // FDB (3, 5): one entry for a peer, permanent, the device's own, and none for all the others.
    let fdb = entries(&a.host.fdb().await?, index);
    ensure!(fdb.len() == 2, "{fdb:?}");
    let entry = of_mac(&fdb, b.mac)?;
    ensure!(entry.header.state == NeighbourState::Permanent && entry.header.flags == NeighbourFlags::Own);
    ensure!(destination(entry) == Some(IpAddr::V4(b.underlay)), "{entry:?}");
    let by_hand = entries(&c.host.fdb().await?, c.index);
    ensure!(same_entry(entry, of_mac(&by_hand, b.mac)?), "{entry:?} is not as in {by_hand:?}");

    // Neighbour (4): the gateway has the peer's MAC address, for ever.
    let neighbours = entries(&a.host.neighbours().await?, index);
    let entry = of_mac(&neighbours, b.mac)?;
    ensure!(entry.header.state == NeighbourState::Permanent && entry.header.kind == RouteType::Unicast);
    ensure!(destination(entry) == Some(b.gateway()), "{entry:?}");
    ensure!(entry.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL)), "{entry:?}");
    let by_hand = entries(&c.host.neighbours().await?, c.index);
    ensure!(same_entry(entry, of_mac(&by_hand, b.mac)?), "{entry:?} is not as in {by_hand:?}");

    // Route (8): to the subnet via its base address, on the link. Ours besides: protocol and metric.
    let routes = a.host.routes().await?;
    let into = |attribute: &RouteAttribute| *attribute == RouteAttribute::Oif(index);
    let is_main = |header: &RouteHeader| header.table == RouteHeader::RT_TABLE_MAIN;
    let v4 = netlink_packet_route::AddressFamily::Inet;
    let routes: Vec<_> = routes
        .iter()
        .filter(|route| is_main(&route.header) && route.header.address_family == v4)
        .filter(|route| route.attributes.iter().any(into))
        .collect();
    ensure!(routes.len() == 2, "{routes:?}");
    let to_b = RouteAttribute::Destination(b.subnet.network().into());
    let route = routes.iter().find(|route| route.attributes.contains(&to_b)).context("no route to b")?;
    ensure!(route.header.destination_prefix_length == 24 && route.header.scope == RouteScope::Universe);
    ensure!(route.header.flags.contains(RouteFlags::Onlink), "{route:?}");
    ensure!(route.header.protocol == PROTOCOL && route.header.kind == RouteType::Unicast, "{route:?}");
    ensure!(route.attributes.contains(&RouteAttribute::Gateway(b.subnet.network().into())), "{route:?}");
    let metric = |part: &RouteAttribute| matches!(part, RouteAttribute::Priority(metric) if *metric > 0);
    ensure!(route.attributes.iter().any(metric), "{route:?}");
    Ok(())
}

fn entries(all: &[NeighbourMessage], link: u32) -> Vec<NeighbourMessage> {
    let ours = |entry: &&NeighbourMessage| {
        entry.header.ifindex == link && entry.header.state == NeighbourState::Permanent
    };
    all.iter().filter(ours).cloned().collect()
}

fn of_mac(entries: &[NeighbourMessage], mac: [u8; 6]) -> anyhow::Result<&NeighbourMessage> {
    let with_mac = |entry: &&NeighbourMessage| link_layer_address(entry).as_deref() == Some(&mac[..]);
    let found: Vec<_> = entries.iter().filter(with_mac).collect();
    ensure!(found.len() == 1, "{found:?} for {mac:?}");
    Ok(found[0])
}

/// Whether two hosts have the same of a peer: everything but the device's index, ages, and the
/// mark of who made it.
fn same_entry(ours: &NeighbourMessage, other: &NeighbourMessage) -> bool {
    let bare = |entry: &NeighbourMessage| {
        let mut entry = entry.clone();
        entry.header.ifindex = 0;
        entry.attributes.retain(|attribute| {
            !matches!(attribute, NeighbourAttribute::CacheInfo(_) | NeighbourAttribute::Protocol(_))
        });
        entry
    };
    bare(ours) == bare(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_of_a_peer_that_changed_its_mac_three_times_and_left() -> anyhow::Result<()> {
    let ThreeHosts { deployment, a, b, mut c, .. } = three_hosts("mac").await?;
    for last in 1..=3 {
        c.publish_mac([0x02, 0, 0x5e, 0x10, 0, last]).await?;
        let peers = peers(&deployment).await?;
        ensure!(peers["c"].mac[5] == last, "{:?}", peers["c"]);
        leads_to(&a, &[&peers["b"], &peers["c"]]).await?;
        leads_to(&b, &[&peers["a"], &peers["c"]]).await?;
    }
    c.leave().await?;
    let peers = peers(&deployment).await?;
    leads_to(&a, &[&peers["b"]]).await?;
    leads_to(&b, &[&peers["a"]]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mtu_above_what_the_link_leaves_is_not_told_to_pods() -> anyhow::Result<()> {
    let deployment = Deployment::start("mtu", &[]).await?;
    deployment.lodenctl(&["network", "create", "default", "--pool", POOL, "--mtu", "9000"]).await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    a.ready(SOON).await?;
    ensure!(a.subnet_env()?.mtu == 1450, "{:?}", a.subnet_env()?);
    let vni = deployment.lodenctl_json(&["network", "get", "default"]).await?["vni"].to_string();
    ensure!(a.host.link_mtu(&format!("loden{vni}a")).await? == 1450);
    Ok(())
}

/// An address of the underlay.
fn underlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// The index of `eth0`.
async fn lower(host: &Namespace) -> anyhow::Result<u32> {
    Ok(host.link_index("eth0").await?)
}
