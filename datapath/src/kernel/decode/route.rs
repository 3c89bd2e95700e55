//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteType, RouteVia,
};

use super::super::encode;
use crate::DeviceName;
use crate::tables::{Only, PROTOCOL, Route, RouteKey};

/// Where a route leads to.
pub(in crate::kernel) fn prefix(message: &RouteMessage) -> Option<IpNet> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(route_ip(address)),
        _ => None,
    });
    let destination = destination.unwrap_or(Some(unspecified))?;
    IpNet::new(destination, message.header.destination_prefix_length).ok()
}

/// A route of the main table, whatever becomes of the packets that take it.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct MainRoute {
    pub(in crate::kernel) prefix: IpNet,
    pub(in crate::kernel) metric: u32,
    pub(in crate::kernel) kind: RouteType,
    pub(in crate::kernel) protocol: RouteProtocol,
    /// Output device; `None` with several next hops.
    pub(in crate::kernel) device: Option<u32>,
    pub(in crate::kernel) gateway: Option<IpAddr>,
    pub(in crate::kernel) onlink: bool,
    /// The packets that it is for.
    pub(in crate::kernel) only: Only,
    /// The longest packet that it takes; `None`: what the device does.
    pub(in crate::kernel) mtu: Option<NonZeroU16>,
    /// With something that routes of ours never have: a metric of TCP, a preferred source, an end.
    pub(in crate::kernel) altered: bool,
}

impl MainRoute {
    /// Where it leads, as one of ours; `None` when routes of ours are never like that.
    pub(in crate::kernel) fn as_ours(&self, device: DeviceName) -> Option<Route> {
        let Self { gateway, onlink, mtu, .. } = *self;
        (!self.altered).then_some(Route { device, gateway, onlink, mtu })
    }

    pub(in crate::kernel) const fn key(&self) -> RouteKey {
        RouteKey { prefix: self.prefix, metric: self.metric }
    }

    /// Whether packets that take it get anywhere.
    pub(in crate::kernel) fn is_unicast(&self) -> bool {
        self.kind == RouteType::Unicast
    }

    /// Whether all packets that take it get nowhere.
    pub(in crate::kernel) fn drops(&self) -> bool {
        // After the main table there is nothing that a throw could lead to.
        let ends = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw];
        ends.contains(&self.kind) && !self.only.is_selective()
    }

    pub(in crate::kernel) fn is_ours(&self) -> bool {
        self.protocol == RouteProtocol::Other(PROTOCOL)
    }

    /// Whether it is for some packets only and has no business where ours is: it says that it is ours, or it takes
    /// packets of ours whatever its metric ([`Only`]).
    pub(in crate::kernel) fn is_selective_rival(&self) -> bool {
        self.only.is_selective() && (self.is_ours() || self.only.source.is_some())
    }

    /// Whether it is one of ours that drops.
    pub(in crate::kernel) fn is_our_blackhole(&self) -> bool {
        self.is_ours() && self.kind == RouteType::BlackHole
    }
}

/// `None` when it is in another table.
pub(in crate::kernel) fn main_route(message: &RouteMessage) -> Option<MainRoute> {
    let header = &message.header;
    let (mut metric, mut device, mut gateway, mut altered) = (0, None, None, false);
    let (mut table, mut source, mut mtu, mut lock) = (u32::from(header.table), None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Source(address) => {
                source = route_ip(address)
                    .and_then(|address| IpNet::new(address, header.source_prefix_length).ok())
                    .filter(|source| source.prefix_len() != 0);
            }
            RouteAttribute::Gateway(address) => gateway = route_ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(bytes) => {
                            mtu = u16::try_from(*bytes).ok().and_then(NonZeroU16::new);
                            altered |= mtu.is_none();
                        }
                        RouteMetric::Lock(metrics) => lock = Some(*metrics).filter(|metrics| *metrics != 0),
                        _ => altered = true,
                    }
                }
            }
            RouteAttribute::CacheInfo(info) => altered |= info.expires != 0,
            RouteAttribute::PrefSource(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::Realm(_)
            | RouteAttribute::NhId(_) => altered = true,
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let prefix = prefix(message)?;
    let as_ours = mtu.and_then(|_| encode::mtu_lock(prefix.addr()));
    Some(MainRoute {
        prefix,
        metric,
        kind: header.kind,
        protocol: header.protocol,
        device,
        gateway,
        onlink: header.flags.contains(RouteFlags::Onlink),
        only: Only { source, tos: header.tos },
        mtu,
        altered: altered || lock != as_ours,
    })
}

pub(in crate::kernel) const fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
