//! What a namespace's kernel holds, as it tells by rtnetlink: not by the code under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{AfSpecInet6, AfSpecUnspec, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};

use super::{Error, Namespace, error::Doing};

impl Namespace {
    /// All links.
    pub async fn links(&self) -> Result<Vec<LinkMessage>, Error> {
        let dump = self.netlink.link().get().execute().try_collect();
        dump.await.doing(|| format!("list the links of {}", self.full_name()))
    }

    /// All addresses.
    pub async fn addresses(&self) -> Result<Vec<AddressMessage>, Error> {
        let dump = self.netlink.address().get().execute().try_collect();
        dump.await.doing(|| format!("list the addresses of {}", self.full_name()))
    }

    /// All routes of both families, in all tables.
    pub async fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let dump = self.netlink.route().get(question).execute().try_collect::<Vec<_>>();
            routes.extend(dump.await.doing(|| format!("list the routes of {}", self.full_name()))?);
        }
        Ok(routes)
    }

    /// All neighbours of both families.
    pub async fn neighbours(&self) -> Result<Vec<NeighbourMessage>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            all.extend(self.neighbours_of(family).await?);
        }
        Ok(all)
    }

    /// All forwarding database entries, of bridges and of VXLAN devices.
    pub async fn fdb(&self) -> Result<Vec<NeighbourMessage>, Error> {
        self.neighbours_of(AddressFamily::Bridge).await
    }

    async fn neighbours_of(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        let dump = self.netlink.neighbours().get().set_address_family(family).execute().try_collect();
        dump.await.doing(|| format!("list the neighbours ({family:?}) of {}", self.full_name()))
    }

    /// Everything of the above that only changes when somebody changes it: no counters, no timers, no
    /// neighbours that the kernel has found by itself, and nothing that comes and goes with its IPv6
    /// link-local addresses (RFC 4862: after a second or two of silence).
    pub async fn objects(&self) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        for mut link in self.links().await? {
            let device = std::mem::take(&mut link.header.index);
            let kept = link.attributes.iter().filter(|attribute| is_link_setting(attribute));
            let kept: Vec<_> = kept.map(|attribute| format!("{:?}", without_timers(attribute))).collect();
            objects.push(Object { device, line: format!("link {:?} {}", link.header, kept.join(" ")) });
        }
        for mut address in self.addresses().await?.into_iter().filter(|address| !is_link_local(address)) {
            let device = std::mem::take(&mut address.header.index);
            address.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::CacheInfo(_)));
            let line = format!("address {:?} {:?}", address.header, address.attributes);
            objects.push(Object { device, line });
        }
        for mut route in self.routes().await?.into_iter().filter(|route| !is_kernels_v6(route)) {
            let mut device = 0;
            route.attributes.retain(|attribute| match attribute {
                RouteAttribute::Oif(index) => {
                    device = *index;
                    false
                }
                RouteAttribute::CacheInfo(_) => false,
                _ => true,
            });
            objects.push(Object { device, line: format!("route {:?} {:?}", route.header, route.attributes) });
        }
        let neighbours = self.neighbours().await?.into_iter().chain(self.fdb().await?);
        let lasts = |neighbour: &NeighbourMessage| {
            neighbour.header.state == NeighbourState::Permanent && !is_group(neighbour)
        };
        for mut neighbour in neighbours.filter(lasts) {
            let device = std::mem::take(&mut neighbour.header.ifindex);
            neighbour.attributes.retain(|attribute| {
                !matches!(attribute, NeighbourAttribute::CacheInfo(_) | NeighbourAttribute::IfIndex(_))
            });
            let line = format!("neighbour {:?} {:?}", neighbour.header, neighbour.attributes);
            objects.push(Object { device, line });
        }
        Ok(objects)
    }

    /// The same as a line for each.
    pub async fn inventory(&self) -> Result<BTreeSet<String>, Error> {
        let objects = self.objects().await?.into_iter();
        Ok(objects.map(|Object { device, line }| format!("device {device}: {line}")).collect())
    }
}

/// Something in the kernel that stays as it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Object {
    /// The index of the device that it is, or is on; 0 when it is on none, or on several.
    pub device: u32,
    /// The rest of it, for people.
    pub line: String,
}

fn is_link_local(address: &AddressMessage) -> bool {
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    address
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Address(address) if link_local(address)))
}

/// Comes with an address, and so with a link-local one.
fn is_kernels_v6(route: &RouteMessage) -> bool {
    route.header.address_family == AddressFamily::Inet6 && route.header.protocol == RouteProtocol::Kernel
}

/// A multicast group that a device listens to.
fn is_group(entry: &NeighbourMessage) -> bool {
    destination(entry).is_none()
        && link_layer_address(entry).is_some_and(|mac| mac.starts_with(&[0x33, 0x33]))
}

fn is_link_setting(attribute: &LinkAttribute) -> bool {
    matches!(
        attribute,
        LinkAttribute::IfName(_)
            | LinkAttribute::IfAlias(_)
            | LinkAttribute::Address(_)
            | LinkAttribute::Mtu(_)
            | LinkAttribute::Link(_)
            | LinkAttribute::Controller(_)
            | LinkAttribute::LinkInfo(_)
            | LinkAttribute::AfSpecUnspec(_)
    )
}

/// A bridge and its ports tell their timers with their settings, and every device its counters of IPv6 with how it
/// makes its addresses.
fn without_timers(attribute: &LinkAttribute) -> LinkAttribute {
    match attribute {
        LinkAttribute::LinkInfo(infos) => {
            let vxlan = infos.contains(&LinkInfo::Kind(InfoKind::Vxlan));
            let kept = infos.iter().filter(|info| {
                matches!(info, LinkInfo::Kind(_)) || (vxlan && matches!(info, LinkInfo::Data(_)))
            });
            LinkAttribute::LinkInfo(kept.cloned().collect())
        }
        LinkAttribute::AfSpecUnspec(families) => {
            let v6 = families.iter().filter_map(|family| match family {
                AfSpecUnspec::Inet6(settings) => Some(settings),
                _ => None,
            });
            let mode = |setting: &&AfSpecInet6| matches!(setting, AfSpecInet6::AddrGenMode(_));
            let kept = v6.flatten().filter(mode).cloned().collect();
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(kept)])
        }
        other => other.clone(),
    }
}

/// Where a VXLAN device leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tunnel {
    /// Permanent forwarding database entries: inner MAC address to underlay address.
    pub fdb: BTreeMap<Vec<u8>, IpAddr>,
    /// Permanent neighbours: gateway to inner MAC address.
    pub neighbours: BTreeMap<IpAddr, Vec<u8>>,
    /// Routes with a gateway: destination to gateway.
    pub routes: BTreeMap<IpNet, IpAddr>,
}

impl Namespace {
    /// What leads into a device.
    pub async fn tunnel(&self, device: &str) -> Result<Tunnel, Error> {
        let index = self.link_index(device).await?;
        let mut tunnel = Tunnel::default();
        for entry in self.fdb().await?.iter().filter(|entry| is_permanent_on(entry, index)) {
            let mac = link_layer_address(entry).unwrap_or_default();
            // An entry without a destination shows as unspecified.
            let to = destination(entry).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            tunnel.fdb.insert(mac, to);
        }
        for entry in self.neighbours().await?.iter().filter(|entry| is_permanent_on(entry, index)) {
            if let Some(address) = destination(entry) {
                tunnel.neighbours.insert(address, link_layer_address(entry).unwrap_or_default());
            }
        }
        for route in self.routes().await? {
            if let Some((to, gateway)) = leads_into(&route, index) {
                tunnel.routes.insert(to, gateway);
            }
        }
        Ok(tunnel)
    }
}

/// The link-layer address of a neighbour or forwarding database entry.
#[must_use]
pub fn link_layer_address(entry: &NeighbourMessage) -> Option<Vec<u8>> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes.clone()),
        _ => None,
    })
}

/// Whom a neighbour entry is about, or where a forwarding database entry sends to.
#[must_use]
pub fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        // The crate reads those of bridges as bytes.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    })
}

fn is_permanent_on(entry: &NeighbourMessage, link: u32) -> bool {
    entry.header.ifindex == link && entry.header.state == NeighbourState::Permanent
}

fn leads_into(route: &RouteMessage, link: u32) -> Option<(IpNet, IpAddr)> {
    let mut to = None;
    let mut gateway = None;
    let mut into = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = Some(IpAddr::V6(*v6)),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(index) => into = *index == link,
            _ => {}
        }
    }
    let to = IpNet::new(to?, route.header.destination_prefix_length).ok()?;
    into.then_some((to, gateway?))
}
