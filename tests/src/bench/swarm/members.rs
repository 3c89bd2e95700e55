//! Who the members are: names, identities, addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use loden_control_plane::identity::{Authority, Pki};
use loden_proto::model::{Endpoint, Family, Mac, Port, Receiver, Vni, VxlanReceiver};
use loden_proto::names::{ClusterName, NodeId};
use loden_proto::v1;
use loden_transport::{Bundle, ConnectOptions, Credentials, Role, ServerAddress, connect_lazy};
use tonic::transport::Channel;

use super::wire::Dialler;

/// How long an identity of a swarm lives.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// Makes members' identities and connections.
pub(super) struct Members {
    pki: Pki,
    server: [ServerAddress; 1],
}

impl Members {
    /// With the CA of the cluster whose control plane is `server`.
    pub(super) fn of(pki: &Path, cluster: &ClusterName, server: &ServerAddress) -> anyhow::Result<Self> {
        let pki = Pki::open_or_create(pki, cluster, SystemTime::now())?;
        Ok(Self { pki, server: [server.clone()] })
    }

    /// A connection of its own for a node; it connects at its first call.
    pub(super) fn connect(&self, node: &NodeId) -> anyhow::Result<Channel> {
        self.connect_as(Role::Node(node.clone()), 0)
    }

    /// What a node needs to connect by itself.
    pub(super) fn dialler(&self, node: &NodeId) -> anyhow::Result<Dialler> {
        let [server] = &self.server;
        Dialler::new(&issue(&self.pki.authority(), Role::Node(node.clone()), 0)?, server)
    }

    /// A connection for anybody, with an identity epoch.
    pub(super) fn connect_as(&self, role: Role, epoch: u32) -> anyhow::Result<Channel> {
        let bundle = issue(&self.pki.authority(), role, epoch)?;
        let credentials = Credentials::fixed(&bundle)?;
        Ok(connect_lazy(&self.server, &credentials, &ConnectOptions::default())?)
    }
}

fn issue(authority: &Authority, role: Role, epoch: u32) -> anyhow::Result<Bundle> {
    Ok(authority.issue(role, &[], epoch, VALIDITY, SystemTime::now())?)
}

/// The name of a member.
pub(super) fn name(index: u16) -> anyhow::Result<NodeId> {
    Ok(format!("node-{index:05}").parse()?)
}

/// Which member has a name.
pub(super) fn index(name: &[u8]) -> Option<u16> {
    std::str::from_utf8(name.strip_prefix(b"node-")?).ok()?.parse().ok()
}

/// The underlay address of a member, in 198.18.0.0/16 (for benchmarks, RFC 2544).
pub(super) fn underlay(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// A place to receive that no kernel stands behind: what the others must know of a node.
pub(super) fn endpoint(address: Ipv4Addr, index: u16, network: &v1::Network) -> anyhow::Result<Endpoint> {
    let [high, low] = index.to_be_bytes();
    let port = match &network.backend {
        Some(v1::network::Backend::Vxlan(vxlan)) => vxlan.port,
        _ => None,
    };
    let vtep = VxlanReceiver {
        family: Family::of(IpAddr::V4(address)),
        vni: Vni::try_from(network.vni.context("the network has no VNI")?)?,
        port: Port::try_from(port.context("the network has no VXLAN port")?)?,
        mac: Mac::try_from([0x02, 0x00, 0x5e, 0x10, high, low])?,
        mtu: 1450,
        gbp: false,
    };
    Ok(Endpoint { v4: Some(address), v6: None, receivers: vec![Receiver::Vxlan(vtep)] })
}
