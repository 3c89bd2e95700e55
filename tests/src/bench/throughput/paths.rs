//! The paths, all there at once.
//!
//! ```text
//!  raw         host ═══ fabric ═══ host
//!  routed      container ─ bridge ─ host ═══ fabric ═══ host ─ bridge ─ container     routes by hand
//!  vxlan_hand  the same through a VXLAN device made with iproute2 as flannel makes it
//!  vxlan       the same by the control plane and two agents, the real programs
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;

use super::super::Say;
use crate::deployment::{Deployment, Node};
use crate::hosts::{Container, Fabric, Host, Lab, Namespace};
use crate::traffic::Ping;

pub(super) const RAW: &str = "raw";
pub(super) const ROUTED: &str = "routed";
pub(super) const VXLAN_HAND: &str = "vxlan_hand";
pub(super) const VXLAN: &str = "vxlan";

/// How long a path may take to carry its first packet.
const PATIENCE: Duration = Duration::from_secs(30);
const MTU: u32 = 1500;
/// Outer Ethernet, IPv4, UDP and VXLAN headers.
const OVERHEAD: u32 = 50;
/// Between the bridge of a host and its containers.
const BRIDGE: &str = "cni0";
const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// A way from one namespace to another.
pub(super) struct Path {
    pub(super) name: &'static str,
    pub(super) from: Namespace,
    pub(super) to: Namespace,
    pub(super) target: IpAddr,
}

impl Path {
    fn new(name: &'static str, from: &Namespace, to: &Namespace, target: IpAddr) -> Self {
        Self { name, from: from.clone(), to: to.clone(), target }
    }
}

/// Everything that the paths need. Dropping it ends and removes it.
pub(super) struct Stage {
    pub(super) paths: Vec<Path>,
    /// Before the deployment, so that processes end before their hosts go.
    _nodes: Vec<Node>,
    _deployment: Deployment,
    _lab: Lab,
}

impl Stage {
    pub(super) async fn build(say: &Say<'_>) -> anyhow::Result<Self> {
        say("paths made by hand");
        let lab = Lab::new("throughput")?;
        let fabric = lab.fabric("fabric").await?;
        no_bridge_netfilter(&fabric)?;
        let (raw, routed) = routed(&lab, &fabric).await?;
        let hand = vxlan_by_hand(&lab, &fabric).await?;
        say("one control plane and two agents");
        let deployment = Deployment::start("throughput", &[]).await?;
        let (ours, nodes) = ours(&deployment).await?;
        let paths = vec![raw, routed, hand, ours];
        for path in &paths {
            let ping = Ping::to(path.target).start(&path.from)?;
            let reached = ping.reach(PATIENCE).await;
            ping.stop().await?;
            reached.with_context(|| format!("{} carries nothing", path.name))?;
        }
        Ok(Self { paths, _nodes: nodes, _deployment: deployment, _lab: lab })
    }
}

/// Two hosts, and a container on each that is reached by a route of its host.
async fn routed(lab: &Lab, fabric: &Fabric) -> anyhow::Result<(Path, Path)> {
    let (a, one) = host_with_container(lab, fabric, 1, MTU).await?;
    let (b, two) = host_with_container(lab, fabric, 2, MTU).await?;
    a.add_route(subnet(2, 0), underlay(2).addr()).await?;
    b.add_route(subnet(1, 0), underlay(1).addr()).await?;
    let raw = Path::new(RAW, &a, &b, underlay(2).addr());
    let routed = Path::new(ROUTED, &one, &two, two.address());
    Ok((raw, routed))
}

/// Two hosts with one VTEP each, as flannel programs it, but no rules.
async fn vxlan_by_hand(lab: &Lab, fabric: &Fabric) -> anyhow::Result<Path> {
    let (a, one) = host_with_container(lab, fabric, 3, MTU - OVERHEAD).await?;
    let (b, two) = host_with_container(lab, fabric, 4, MTU - OVERHEAD).await?;
    for (host, own, other) in [(&a, 3, 4), (&b, 4, 3)] {
        let (local, remote) = (underlay(own).addr(), underlay(other).addr());
        let (inner, gateway) = (subnet(own, 0).addr(), subnet(other, 0).addr());
        let (mac, other_mac) = (format!("02:00:5e:10:00:{own:02x}"), format!("02:00:5e:10:00:{other:02x}"));
        let vxlan = "type vxlan id 1 dev eth0 dstport 8472 nolearning";
        host.iproute(&format!("ip link add vtep address {mac} mtu 1450 {vxlan} local {local}")).await?;
        host.iproute(&format!("ip addr add {inner}/32 dev vtep")).await?;
        host.iproute("ip link set vtep up").await?;
        host.iproute(&format!("ip neigh add {gateway} lladdr {other_mac} dev vtep nud permanent")).await?;
        host.iproute(&format!("bridge fdb add {other_mac} dev vtep dst {remote} self permanent")).await?;
        host.iproute(&format!("ip route add {} via {gateway} dev vtep onlink", subnet(other, 0))).await?;
    }
    Ok(Path::new(VXLAN_HAND, &one, &two, two.address()))
}

/// Two nodes of a real deployment.
async fn ours(deployment: &Deployment) -> anyhow::Result<(Path, Vec<Node>)> {
    no_bridge_netfilter(&deployment.fabric)?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let mut nodes = Vec::new();
    for (name, number) in [("a", 11), ("b", 12)] {
        let node = deployment.add_node(name, number, &["--iface", "eth0"]).await?;
        no_bridge_netfilter(&node.host)?;
        nodes.push(node);
    }
    let mut containers: Vec<Container> = Vec::new();
    for node in &nodes {
        node.ready(PATIENCE).await?;
        containers.push(node.attach(&format!("pod-{}", node.name)).await?);
    }
    let [one, two] = &containers[..] else { anyhow::bail!("two nodes make two containers") };
    Ok((Path::new(VXLAN, one, two, two.address()), nodes))
}

async fn host_with_container(
    lab: &Lab,
    fabric: &Fabric,
    number: u8,
    mtu: u32,
) -> anyhow::Result<(Host, Container)> {
    let host = lab.host(&format!("h{number}")).on(fabric).address(underlay(number)).build().await?;
    no_bridge_netfilter(&host)?;
    host.bridge(BRIDGE, subnet(number, 1), mtu).await?;
    let gateway = subnet(number, 1).addr();
    let container = host.container(&format!("c{number}"), BRIDGE, subnet(number, 2), gateway).await?;
    Ok((host, container))
}

/// Where the module is loaded, bridged packets pass the host's packet filter unless told not to.
/// It is the same, off, on all paths.
fn no_bridge_netfilter(namespace: &Namespace) -> anyhow::Result<()> {
    if namespace.enter(|| FilePath::new("/proc/sys").join(BRIDGE_NETFILTER).exists()) {
        namespace.sysctl(BRIDGE_NETFILTER, "0")?;
    }
    Ok(())
}

/// The underlay address of a host made by hand: 198.51.100.`number` (TEST-NET-2).
fn underlay(number: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)), 24)
}

/// An address in the containers' subnet of a host made by hand; `last` 0 is the subnet's own.
fn subnet(number: u8, last: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 1, number, last)), 24)
}
