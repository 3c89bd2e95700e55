//! A VTEP made by hand, request for request as flannel makes its own, that takes part through the
//! API.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use loden_proto::v1::{self, lease_service_client::LeaseServiceClient, receiver::Kind};
use loden_tests::deployment::Deployment;
use loden_tests::hosts::{Container, Host};
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkVxlan, RouteMessageBuilder};
use tonic::transport::Channel;

use crate::{lower, underlay};

/// What the others know of a node.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) node: String,
    pub(crate) subnet: Ipv4Net,
    pub(crate) underlay: Ipv4Addr,
    pub(crate) mac: [u8; 6],
}

impl Peer {
    /// Of a lease whose node receives.
    pub(crate) fn of(lease: &v1::Lease) -> anyhow::Result<Self> {
        let node = lease.name.rsplit('/').next().context("no name")?.to_owned();
        let endpoint = lease.endpoint.as_ref().context("no endpoint")?;
        let receiver = endpoint.receivers.first().with_context(|| format!("{node} does not receive"))?;
        let Some(Kind::Vxlan(vtep)) = &receiver.kind else { bail!("{node} has no VTEP") };
        let octets: Vec<u8> =
            vtep.mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
        Ok(Self {
            node,
            subnet: lease.subnets.first().context("no subnet")?.parse()?,
            underlay: endpoint.address_v4.parse()?,
            mac: octets.try_into().ok().context("no MAC address")?,
        })
    }

    /// flannel's gateway: the base address of the subnet.
    pub(crate) fn gateway(&self) -> IpAddr {
        IpAddr::V4(self.subnet.network())
    }
}

/// A host with such a VTEP.
pub(crate) struct Flannel {
    pub(crate) host: Host,
    pub(crate) index: u32,
    name: String,
    subnet: Ipv4Net,
    lease: v1::Lease,
    leases: LeaseServiceClient<Channel>,
}

impl Flannel {
    /// Makes the host and the device, acquires a lease for it, and sets its address.
    pub(crate) async fn join(
        deployment: &Deployment,
        name: &str,
        number: u8,
        vni: u32,
    ) -> anyhow::Result<Self> {
        let cidr = IpNet::new(underlay(number).into(), 24)?;
        let host = deployment.lab.host(name).on(&deployment.fabric).address(cidr).build().await?;
        // As flannel asks for it: no checksum attribute, learning off. (Its name would have the VNI,
        // of which ours is too long.)
        let device = "flannel.1".to_owned();
        let link = LinkVxlan::new(&device, vni)
            .dev(lower(&host).await?)
            .local(underlay(number))
            .port(8472)
            .learning(false);
        let netlink = host.netlink();
        netlink.link().add(link.build()).execute().await?;
        host.set_up(&device).await?;
        let mac = <[u8; 6]>::try_from(host.link_address(&device).await?.as_slice())?;

        let identity = deployment.lab.directory().join(format!("{name}-identity"));
        deployment.control.issue("node", name, &identity).await?;
        let mut leases = LeaseServiceClient::new(deployment.control.channel(&identity).await?);
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: "networks/default".into(),
            instance_id: format!("{number:032x}"),
            claim: Vec::new(),
            endpoint: Some(endpoint(number, vni, mac)),
        };
        let lease = leases.acquire_lease(request).await?.into_inner().lease.context("no lease")?;
        let subnet: Ipv4Net = lease.subnets.first().context("no subnet")?.parse()?;
        host.add_address(&device, IpNet::new(subnet.network().into(), 32)?).await?;
        let index = host.link_index(&device).await?;
        Ok(Self { host, index, name: device, subnet, lease, leases })
    }

    pub(crate) async fn device(&self) -> anyhow::Result<LinkMessage> {
        Ok(self.host.link(&self.name).await?)
    }

    /// Programs a peer: neighbour, forwarding database, route, in flannel's order.
    pub(crate) async fn lead_to(&self, peer: &Peer) -> anyhow::Result<()> {
        let netlink = self.host.netlink();
        let neighbour = netlink.neighbours().add(self.index, peer.gateway()).link_layer_address(&peer.mac);
        neighbour.state(NeighbourState::Permanent).kind(RouteType::Unicast).replace().execute().await?;
        let entry = netlink.neighbours().add_bridge(self.index, &peer.mac).destination(peer.underlay.into());
        entry.flags(NeighbourFlags::Own).replace().execute().await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(peer.subnet.network(), peer.subnet.prefix_len())
            .gateway(peer.subnet.network())
            .output_interface(self.index)
            .scope(RouteScope::Universe)
            .onlink()
            .build();
        netlink.route().add(route).replace().execute().await?;
        Ok(())
    }

    /// A container at the second address of its subnet, as [`loden_tests::deployment::Node::attach`].
    pub(crate) async fn attach(&self, name: &str) -> anyhow::Result<Container> {
        let at = |offset| -> anyhow::Result<IpNet> {
            let address = u32::from(self.subnet.network()) + offset;
            Ok(IpNet::new(Ipv4Addr::from(address).into(), self.subnet.prefix_len())?)
        };
        self.host.bridge("cni0", at(1)?, 1450).await?;
        Ok(self.host.container(name, "cni0", at(2)?, at(1)?.addr()).await?)
    }

    /// Says that it receives with another MAC address.
    pub(crate) async fn publish_mac(&mut self, mac: [u8; 6]) -> anyhow::Result<()> {
        let mut endpoint = self.lease.endpoint.clone().context("no endpoint")?;
        for receiver in &mut endpoint.receivers {
            if let Some(Kind::Vxlan(vtep)) = &mut receiver.kind {
                vtep.mac = text(mac);
            }
        }
        let request = v1::UpdateEndpointRequest {
            name: self.lease.name.clone(),
            epoch: self.lease.epoch,
            endpoint: Some(endpoint),
        };
        self.lease = self.leases.update_endpoint(request).await?.into_inner();
        Ok(())
    }

    /// Gives its lease back.
    pub(crate) async fn leave(&mut self) -> anyhow::Result<()> {
        let request = v1::ReleaseLeaseRequest { name: self.lease.name.clone(), epoch: self.lease.epoch };
        self.leases.release_lease(request).await?;
        Ok(())
    }
}

fn endpoint(number: u8, vni: u32, mac: [u8; 6]) -> v1::Endpoint {
    let vtep = v1::VxlanReceiver {
        family: v1::AddressFamily::Ipv4.into(),
        vni,
        port: 8472,
        mac: text(mac),
        mtu: 1450,
        gbp: false,
    };
    v1::Endpoint {
        address_v4: underlay(number).to_string(),
        address_v6: String::new(),
        receivers: vec![v1::Receiver { kind: Some(Kind::Vxlan(vtep)) }],
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// The settings of a VXLAN device, without where it is: address and lower device.
pub(crate) fn vxlan_settings(link: &LinkMessage) -> Vec<InfoVxlan> {
    let data = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.clone()),
            _ => None,
        }),
        _ => None,
    });
    let is_place = |setting: &InfoVxlan| matches!(setting, InfoVxlan::Local(_) | InfoVxlan::Link(_));
    data.unwrap_or_default().into_iter().filter(|setting| !is_place(setting)).collect()
}
