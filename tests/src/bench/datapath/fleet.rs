//! Peers by number, as Loden has them and as iproute2 is told of them.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use loden_datapath::backend::mac_of;
use loden_proto::convert::timestamp;
use loden_proto::model::{
    Endpoint, Family, Network, Peer, Port, Receiver, RoutedReceiver, Subnets, Vni, VxlanReceiver,
};
use loden_proto::v1::{self, network::Backend};

/// The number of the host that is measured; the peers begin with the next one.
pub(super) const ME: u32 = 1;
/// The device of the baseline.
pub(super) const DEVICE: &str = "vtep";

/// What is programmed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// IPv4 subnets behind VTEPs.
    Vxlan,
    /// Subnets of both families behind VTEPs.
    Dual,
    /// IPv4 subnets behind next hops.
    HostGw,
}

impl Shape {
    /// The network, as it comes over the wire.
    pub(super) fn network(self) -> anyhow::Result<Network> {
        let pool = |cidr: &str, length| v1::Pool { cidr: cidr.into(), node_prefix_len: Some(length) };
        let mut pools = vec![pool("10.0.0.0/8", 24)];
        if self == Self::Dual {
            pools.push(pool("2001:db8::/48", 64));
        }
        let backend = match self {
            Self::Vxlan | Self::Dual => Backend::Vxlan(v1::VxlanBackend::default()),
            Self::HostGw => Backend::HostGw(v1::HostGwBackend {}),
        };
        let network = v1::Network {
            name: "networks/default".into(),
            pools,
            vni: Some(1),
            backend: Some(backend),
            create_time: Some(timestamp(std::time::SystemTime::UNIX_EPOCH)),
            revision: 1,
            ..Default::default()
        };
        Ok(network.try_into()?)
    }

    /// The subnets of a node.
    pub(super) fn subnets(self, number: u32) -> anyhow::Result<Subnets> {
        let mut subnets = vec![subnet_v4(number)];
        if self == Self::Dual {
            let [high, low] = [number >> 16, number & 0xffff];
            anyhow::ensure!(high == 0, "there are 65,536 slots, not {number}");
            let base = Ipv6Addr::new(0x2001, 0xdb8, 0, low as u16, 0, 0, 0, 0);
            subnets.push(IpNet::new_assert(base.into(), 64));
        }
        Ok(Subnets::new(subnets)?)
    }

    /// So many peers.
    pub(super) fn peers(self, network: &Network, count: usize) -> anyhow::Result<Vec<Peer>> {
        let numbers = (ME + 1..).take(count);
        numbers.map(|number| self.peer(network, number)).collect()
    }

    fn peer(self, network: &Network, number: u32) -> anyhow::Result<Peer> {
        let node = format!("node-{number}").parse()?;
        let receiver = match self {
            Self::HostGw => Receiver::Routed(RoutedReceiver { family: Family::V4, mtu: 1500 }),
            Self::Vxlan | Self::Dual => Receiver::Vxlan(VxlanReceiver {
                family: Family::V4,
                vni: Vni::try_from(1)?,
                port: Port::VXLAN,
                mac: mac_of(&node, &network.id),
                mtu: 1450,
                gbp: false,
            }),
        };
        let endpoint = Endpoint { v4: Some(underlay(number)), v6: None, receivers: vec![receiver] };
        Ok(Peer { node, subnets: self.subnets(number)?, endpoint })
    }

    /// What `ip -batch` and `bridge -batch` are told to have the same objects, with `add` or `del`.
    pub(super) fn batches(self, peers: &[Peer], verb: &str) -> [String; 2] {
        let (mut ip, mut bridge) = (String::new(), String::new());
        for peer in peers {
            let Some(to) = peer.endpoint.v4 else { continue };
            for subnet in peer.subnets.iter() {
                // Writing to a string cannot fail.
                let _ = match peer.endpoint.vteps().next() {
                    Some(vtep) => {
                        let (base, mac) = (subnet.network(), vtep.mac);
                        writeln!(
                            ip,
                            "neigh {verb} {base} lladdr {mac} dev {DEVICE} nud permanent\n\
                             route {verb} {subnet} via {base} dev {DEVICE} onlink"
                        )
                    }
                    None => writeln!(ip, "route {verb} {subnet} via {to} dev eth0"),
                };
            }
            if let Some(vtep) = peer.endpoint.vteps().next() {
                let _ = writeln!(bridge, "fdb {verb} {} dev {DEVICE} dst {to} self permanent", vtep.mac);
            }
        }
        [ip, bridge]
    }
}

/// The underlay address of a node, in 100.64.0.0/10 (RFC 6598).
pub(super) fn underlay(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number)
}

/// The same with its prefix.
pub(super) fn underlay_net(number: u32) -> IpNet {
    IpNet::new_assert(underlay(number).into(), 10)
}

/// The IPv4 subnet of a node.
pub(super) fn subnet_v4(number: u32) -> IpNet {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number << 8);
    IpNet::new_assert(IpAddr::V4(base.into()), 24)
}
