//! Steps as netlink messages, in the wire format of `rtnetlink(7)`.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::Mac;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, InfoVxlan, LinkAttribute, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use crate::step::Change;
use crate::tables::{AddressKey, FdbEntry, FdbKey, NeighbourKey, PROTOCOL, Rival, Route, RouteKey, Vxlan};
use crate::{DeviceName, Error};

/// Sets replace what is there, whoever set it.
pub(super) const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// Devices are created only where there is none.
pub(super) const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Changes and removals have no flags.
pub(super) const PLAIN: u16 = 0;
/// The metric of a route that is its MTU (`linux/rtnetlink.h`).
const RTAX_MTU: u32 = 2;

pub(super) const fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A VXLAN device as it is created: named, with its MAC address from the first
/// moment (or the system gives it another), down.
///
/// `IFLA_VXLAN_UDP_CSUM` is left out as flannel does: the kernel then sends
/// outer checksums. Learning is said: left out, it is on.
pub(super) fn vxlan(name: DeviceName, vxlan: &Vxlan, mtu: u32, lower: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkVxlan::new(name.as_str(), vxlan.vni.get())
        .port(vxlan.port.get())
        .learning(vxlan.learning)
        .append_info_data(local(vxlan.local))
        .address(vxlan.mac.octets().to_vec())
        .mtu(mtu)
        .txqueuelen(0);
    if let Some(lower) = lower {
        message = message.dev(lower);
    }
    if vxlan.gbp {
        message = message.gbp();
    }
    RouteNetlinkMessage::NewLink(message.build())
}

/// A change of one attribute.
pub(super) fn change(
    index: u32,
    change: &Change,
    index_of: &mut impl FnMut(DeviceName) -> Result<u32, Error>,
) -> Result<RouteNetlinkMessage, Error> {
    let link = || LinkUnspec::new_with_index(index);
    let vxlan = || LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).index(index);
    let message = match change {
        Change::Detach => link().nocontroller().build(),
        Change::Lower(lower) => vxlan().dev(index_of(*lower)?).build(),
        Change::Local(address) => vxlan().append_info_data(local(*address)).build(),
        Change::Learning(learning) => vxlan().learning(*learning).build(),
        Change::Mac(mac) => link().address(mac.octets().to_vec()).build(),
        Change::Mtu(mtu) => link().mtu(*mtu).build(),
        Change::Alias(alias) => link().alias(alias.to_string()).build(),
        Change::NoLinkLocal => {
            let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
            link().append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none])).build()
        }
        Change::Up => link().up().build(),
    };
    Ok(RouteNetlinkMessage::NewLink(message))
}

pub(super) fn delete_device(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::DelLink(message)
}

const fn local(address: IpAddr) -> InfoVxlan {
    match address {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    }
}

/// An address; an IPv6 one without duplicate detection, which would say
/// nothing on a tunnel and delay its use, and without a route of its own.
pub(super) fn address(index: u32, key: &AddressKey) -> AddressMessage {
    let address = key.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = family_of(address);
    message.header.prefix_len = key.address.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::from(key.scope);
    message.attributes =
        vec![AddressAttribute::Local(address), AddressAttribute::Address(key.peer.unwrap_or(address))];
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    message
}

/// A forwarding database entry, to be set (with where it leads) or unset. An
/// unset names no destination: with a wrong one the kernel answers success and
/// deletes nothing.
pub(super) fn fdb(index: u32, key: &FdbKey, entry: Option<&FdbEntry>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    // NTF_SELF: the device's own database, not that of a bridge above it.
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(key.mac.to_vec()));
    if let Some(entry) = entry {
        message.attributes.push(NeighbourAttribute::Destination(entry.destination.into()));
        message.attributes.extend(entry.port.map(|port| NeighbourAttribute::Port(port.get())));
        message.attributes.extend(entry.vni.map(|vni| NeighbourAttribute::Vni(vni.get())));
    }
    message
}

/// A permanent neighbour, to be set (with its MAC address) or unset.
pub(super) fn neighbour(index: u32, key: &NeighbourKey, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(key.address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(key.address.into()));
    if let Some(mac) = mac {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    }
    message
}

/// A neighbour to be asked for, whatever is known of it.
pub(super) fn ask(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Use;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// A route to be set.
pub(super) fn route(index: u32, key: &RouteKey, route: &Route) -> RouteMessage {
    // Without a next hop everybody is on the link.
    let scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let mut message = route_key(Some(index), key, scope);
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.extend(route.gateway.map(|address| gateway(key, address)));
    if let Some(mtu) = route.mtu {
        let mut metrics = vec![RouteMetric::Mtu(mtu.get().into())];
        metrics.extend(mtu_lock(key.prefix.addr()).map(RouteMetric::Lock));
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// What is said with the MTU of a route to an address. In IPv6 the kernel changes those of routes, and tells nobody,
/// whenever its device's MTU or a router's opinion of it changes, unless they are locked; path MTU discovery goes on
/// (`rt6_mtu_change_route`). In IPv4 it leaves them alone, and a lock would end path MTU discovery.
pub(super) const fn mtu_lock(to: IpAddr) -> Option<u32> {
    match to {
        IpAddr::V4(_) => None,
        IpAddr::V6(_) => Some(1 << RTAX_MTU),
    }
}

/// A route to be unset: what makes it that one route, whatever its gateway.
pub(super) fn unset_route(index: u32, key: &RouteKey) -> RouteMessage {
    route_key(Some(index), key, RouteScope::NoWhere)
}

/// A route that drops, to be set.
pub(super) fn blackhole(key: &RouteKey) -> RouteMessage {
    drops(key, RouteScope::Universe)
}

/// A route that drops, to be unset.
pub(super) fn unset_blackhole(key: &RouteKey) -> RouteMessage {
    drops(key, RouteScope::NoWhere)
}

/// A route in the place of one of ours, to be unset. All that is known of it is
/// said, or the kernel may take another one.
pub(super) fn evict(rival: &Rival) -> RouteMessage {
    let mut message = route_key(rival.device, &rival.key, RouteScope::NoWhere);
    message.header.kind = RouteType::from(rival.kind);
    message.header.protocol = RouteProtocol::from(rival.protocol);
    message.attributes.extend(rival.gateway.map(|address| gateway(&rival.key, address)));
    message.header.tos = rival.only.tos;
    if let Some(source) = rival.only.source {
        message.header.source_prefix_length = source.prefix_len();
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source.network())));
    }
    message
}

fn drops(key: &RouteKey, scope: RouteScope) -> RouteMessage {
    let mut message = route_key(None, key, scope);
    message.header.kind = RouteType::BlackHole;
    message
}

fn gateway(key: &RouteKey, address: IpAddr) -> RouteAttribute {
    match (key.prefix, address) {
        (IpNet::V4(_), IpAddr::V6(address)) => RouteAttribute::Via(RouteVia::Inet6(address)),
        (_, address) => RouteAttribute::Gateway(RouteAddress::from(address)),
    }
}

fn route_key(device: Option<u32>, key: &RouteKey, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(key.prefix.addr());
    message.header.destination_prefix_length = key.prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    let destination = RouteAttribute::Destination(RouteAddress::from(key.prefix.network()));
    message.attributes.push(destination);
    message.attributes.extend(device.map(RouteAttribute::Oif));
    message.attributes.push(RouteAttribute::Priority(key.metric));
    message
}
