//! Hosts and containers that are wired by hand: what Loden is compared with.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path as FilePath;

use ipnet::IpNet;

use super::carry::Path;
use crate::hosts::{Container, Fabric, Host, Lab, Namespace};

pub(super) const MTU: u32 = 1500;
/// Outer Ethernet, IPv4, UDP and VXLAN headers.
const OVERHEAD: u32 = 50;
/// Between the bridge of a host and its containers.
const BRIDGE: &str = "cni0";
const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";
/// Has the kernel track connections, and no packet meet a rule: what it takes is that a rule asks
/// for them, and this one's chain is on no hook.
pub(super) const TRACKING: &str = "table inet tracking { chain idle { ct state new accept; }; }";

/// Two hosts, and a container on each that is reached by a route of its host.
/// First the path between the hosts themselves.
pub(super) async fn routed(
    [raw, routed]: [&'static str; 2],
    lab: &Lab,
    fabric: &Fabric,
) -> anyhow::Result<[Path; 2]> {
    let (a, one) = host_with_container(lab, fabric, 1, MTU).await?;
    let (b, two) = host_with_container(lab, fabric, 2, MTU).await?;
    a.add_route(subnet(2, 0), underlay(2).addr()).await?;
    b.add_route(subnet(1, 0), underlay(1).addr()).await?;
    let raw = Path::new(raw, &a, &b, underlay(2).addr());
    Ok([raw, Path::new(routed, &one, &two, two.address())])
}

/// Two hosts of these numbers with one VTEP each, as flannel programs it, but no rules that packets meet; and the path
/// between their containers.
pub(super) async fn vxlan(
    name: &'static str,
    lab: &Lab,
    fabric: &Fabric,
    numbers: [u8; 2],
    tracking: bool,
) -> anyhow::Result<(Path, [Host; 2])> {
    let (a, one) = host_with_container(lab, fabric, numbers[0], MTU - OVERHEAD).await?;
    let (b, two) = host_with_container(lab, fabric, numbers[1], MTU - OVERHEAD).await?;
    for (host, [own, other]) in [(&a, numbers), (&b, [numbers[1], numbers[0]])] {
        let inner = subnet(own, 0).addr();
        let vtep = Vtep { id: 1, port: 8472, number: own, local: underlay(own).addr() };
        vtep.create(host).await?;
        host.iproute(&format!("ip addr add {inner}/32 dev {DEVICE}")).await?;
        vtep.add_peer(host, other, underlay(other).addr(), subnet(other, 0)).await?;
        host.iproute(&format!("ip route add {}", vtep.route(subnet(other, 0)))).await?;
        if tracking {
            host.nft(TRACKING)?;
        }
    }
    Ok((Path::new(name, &one, &two, two.address()), [a, b]))
}

/// The device of a host.
const DEVICE: &str = "vtep";

/// A VXLAN device, by hand.
pub(super) struct Vtep {
    pub(super) id: u32,
    pub(super) port: u16,
    /// In its MAC address.
    pub(super) number: u8,
    pub(super) local: IpAddr,
}

impl Vtep {
    /// Makes the device, up.
    pub(super) async fn create(&self, host: &Namespace) -> anyhow::Result<()> {
        let Self { id, port, number, local } = self;
        let (mac, mtu) = (mac(*number), MTU - OVERHEAD);
        let vxlan = format!("type vxlan id {id} dev eth0 dstport {port} nolearning local {local}");
        host.iproute(&format!("ip link add {DEVICE} address {mac} mtu {mtu} {vxlan}")).await?;
        host.iproute(&format!("ip link set {DEVICE} up")).await?;
        Ok(())
    }

    /// All that a route to another host's subnet leans on.
    pub(super) async fn add_peer(
        &self,
        host: &Namespace,
        number: u8,
        remote: IpAddr,
        subnet: IpNet,
    ) -> anyhow::Result<()> {
        let (mac, gateway) = (mac(number), subnet.network());
        host.iproute(&format!("ip neigh add {gateway} lladdr {mac} dev {DEVICE} nud permanent")).await?;
        host.iproute(&format!("bridge fdb add {mac} dev {DEVICE} dst {remote} self permanent")).await?;
        Ok(())
    }

    /// The route, as iproute2 is told of it.
    pub(super) fn route(&self, subnet: IpNet) -> String {
        format!("{subnet} via {} dev {DEVICE} onlink", subnet.network())
    }
}

fn mac(number: u8) -> String {
    format!("02:00:5e:10:00:{number:02x}")
}

pub(super) async fn host_with_container(
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
pub(super) fn no_bridge_netfilter(namespace: &Namespace) -> anyhow::Result<()> {
    if namespace.enter(|| FilePath::new("/proc/sys").join(BRIDGE_NETFILTER).exists()) {
        namespace.sysctl(BRIDGE_NETFILTER, "0")?;
    }
    Ok(())
}

/// The underlay address of a host made by hand: 198.51.100.`number` (TEST-NET-2).
pub(super) fn underlay(number: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)), 24)
}

/// An address in the containers' subnet of a host made by hand; `last` 0 is the subnet's own.
pub(super) fn subnet(number: u8, last: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 1, number, last)), 24)
}
