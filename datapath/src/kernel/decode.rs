//! Netlink messages as table entries. What is not of our shape is `None`.

mod route;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use loden_proto::model::{Family, Mac, Port, Vni};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, VxlanDf,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;

use crate::DeviceName;
use crate::backend::{device_names, vni_of};
use crate::tables::{AddressKey, Alias, Device, FdbEntry, Kind, Lifetime, PROTOCOL, Vxlan};
pub(super) use route::{MainRoute, main_route, prefix, route_ip};

/// A link as far as anybody here wants to know it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: DeviceName,
    pub(super) alias: Option<String>,
    pub(super) kind: Option<InfoKind>,
    pub(super) mtu: u32,
    pub(super) mac: Option<Mac>,
    pub(super) flags: LinkFlags,
    pub(super) vxlan: Option<Vec<InfoVxlan>>,
    /// No IPv6 on the device, or `addrgenmode none`.
    pub(super) no_link_local: bool,
    /// The bridge or bond that it is attached to.
    pub(super) controller: Option<u32>,
    /// Whether a protocol has it down.
    pub(super) protodown: bool,
    /// What queues its packets.
    pub(super) qdisc: Option<String>,
}

/// Whose a device is, to be written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    /// A tunnel that is named ours.
    Ours,
    /// A tunnel that is called as ours and has no alias of ours: whether it is ours, who has observed it knows.
    Unnamed,
    /// Somebody else's, whatever its name.
    Another,
}

impl Link {
    /// `None` when its name cannot be said.
    pub(super) fn new(message: LinkMessage) -> Option<Self> {
        let (mut name, mut alias, mut kind, mut vxlan, mut mtu, mut mac) = (None, None, None, None, 0, None);
        let (mut no_link_local, mut controller, mut protodown, mut qdisc) = (true, None, false, None);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = text.parse().ok(),
                LinkAttribute::IfAlias(text) => alias = Some(text),
                LinkAttribute::Mtu(bytes) => mtu = bytes,
                LinkAttribute::Qdisc(text) => qdisc = Some(text),
                LinkAttribute::ProtoDown(on) => protodown = on != 0,
                LinkAttribute::Controller(index) => controller = Some(index),
                LinkAttribute::Address(octets) => mac = mac_of(&octets),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(of) => kind = Some(of),
                            LinkInfo::Data(InfoData::Vxlan(data)) => vxlan = Some(data),
                            _ => {}
                        }
                    }
                }
                LinkAttribute::AfSpecUnspec(specs) => {
                    no_link_local = gen_mode(&specs).is_none_or(|mode| mode == In6AddrGenMode::None);
                }
                _ => {}
            }
        }
        let name = name?;
        let vxlan = vxlan.filter(|_| kind == Some(InfoKind::Vxlan));
        let (index, flags) = (message.header.index, message.header.flags);
        Some(Self {
            index,
            name,
            alias,
            kind,
            mtu,
            mac,
            flags,
            vxlan,
            no_link_local,
            controller,
            protodown,
            qdisc,
        })
    }

    /// Whether it is a device of ours, or named like one.
    pub(super) fn is_ours(&self) -> bool {
        let is_tunnel = self.vxlan.is_some() || self.kind == Some(InfoKind::Tun);
        self.parsed_alias().is_some() || (is_tunnel && self.name.as_str().starts_with("loden"))
    }

    pub(super) fn parsed_alias(&self) -> Option<Alias> {
        self.alias.as_deref().and_then(Alias::parse)
    }

    /// Whose it is, to be written to.
    pub(super) fn owner(&self) -> Owner {
        match self.vni() {
            Some(_) if self.parsed_alias().is_some() => Owner::Ours,
            Some(_) if self.has_our_name() => Owner::Unnamed,
            _ => Owner::Another,
        }
    }

    /// Whether it is called as we call a tunnel of its VNI.
    pub(super) fn has_our_name(&self) -> bool {
        self.vni().is_some_and(|vni| device_names(vni).contains(&self.name))
    }

    /// That of a TUN device is in its name only.
    fn vni(&self) -> Option<Vni> {
        if self.kind == Some(InfoKind::Tun) {
            return vni_of(self.name);
        }
        self.vni_and_port().and_then(|(vni, _)| Vni::try_from(vni).ok())
    }

    /// VNI and port of a VXLAN device; of one that is controlled from outside,
    /// there is no VNI.
    pub(super) fn vni_and_port(&self) -> Option<(u32, u16)> {
        let data = self.vxlan.as_ref()?;
        let vni =
            data.iter().find_map(|item| if let InfoVxlan::Id(vni) = item { Some(*vni) } else { None })?;
        let port =
            data.iter().find_map(|item| if let InfoVxlan::Port(port) = item { Some(*port) } else { None })?;
        Some((vni, port))
    }

    /// The family that a VXLAN device sends over.
    pub(super) fn underlay(&self) -> Family {
        let is_v6 = |item: &InfoVxlan| matches!(item, InfoVxlan::Local6(_) | InfoVxlan::Group6(_));
        if self.vxlan.iter().flatten().any(is_v6) { Family::V6 } else { Family::V4 }
    }

    /// As a device of the tables; `None` when it is neither a TUN device nor a
    /// VXLAN device with VNI, port and unicast MAC address.
    pub(super) fn device(&self, name_of: impl Fn(u32) -> Option<DeviceName>) -> Option<Device> {
        let (kind, plain) = if self.kind == Some(InfoKind::Tun) {
            (Kind::Tun, self.vni().is_some())
        } else {
            let plain = !self.flags.contains(LinkFlags::Noarp) && !self.is_special();
            (Kind::Vxlan(self.as_vxlan(name_of)?), plain)
        };
        Some(Device {
            alias: self.parsed_alias(),
            kind,
            mtu: self.mtu,
            plain: plain && !self.protodown,
            no_link_local: self.no_link_local,
            attached: self.controller.is_some(),
            up: self.flags.contains(LinkFlags::Up),
        })
    }

    fn as_vxlan(&self, name_of: impl Fn(u32) -> Option<DeviceName>) -> Option<Vxlan> {
        let (vni, port) = self.vni_and_port()?;
        let mut vxlan = Vxlan {
            vni: Vni::try_from(vni).ok()?,
            port: Port::try_from(u32::from(port)).ok()?,
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            lower: None,
            mac: self.mac?,
            learning: false,
            gbp: false,
        };
        for item in self.vxlan.iter().flatten() {
            match item {
                InfoVxlan::Local(address) => vxlan.local = IpAddr::V4(*address),
                InfoVxlan::Local6(address) => vxlan.local = IpAddr::V6(*address),
                InfoVxlan::Link(index) => vxlan.lower = name_of(*index),
                InfoVxlan::Learning(learning) => vxlan.learning = *learning,
                InfoVxlan::Gbp => vxlan.gbp = true,
                _ => {}
            }
        }
        Some(vxlan)
    }

    fn is_special(&self) -> bool {
        self.vxlan.iter().flatten().any(is_special)
    }
}

/// Whether it switches on something that our devices do not have.
fn is_special(item: &InfoVxlan) -> bool {
    match item {
        InfoVxlan::UDPCsum(on) | InfoVxlan::Localbypass(on) => !on,
        InfoVxlan::Ttl(value) | InfoVxlan::Tos(value) | InfoVxlan::TtlInherit(value) => *value != 0,
        InfoVxlan::Df(value) => *value != VxlanDf::Unset,
        InfoVxlan::UDPZeroCsumTX(on)
        | InfoVxlan::UDPZeroCsumRX(on)
        | InfoVxlan::Proxy(on)
        | InfoVxlan::Rsc(on)
        | InfoVxlan::L2Miss(on)
        | InfoVxlan::L3Miss(on)
        | InfoVxlan::CollectMetadata(on)
        | InfoVxlan::RemCsumTX(on)
        | InfoVxlan::RemCsumRX(on)
        | InfoVxlan::Vnifilter(on) => *on,
        InfoVxlan::Group(address) => *address != Ipv4Addr::UNSPECIFIED,
        InfoVxlan::Group6(address) => *address != Ipv6Addr::UNSPECIFIED,
        InfoVxlan::Gpe | InfoVxlan::RemCsumNoPartial => true,
        _ => false,
    }
}

fn gen_mode(specs: &[AfSpecUnspec]) -> Option<In6AddrGenMode> {
    specs.iter().find_map(|spec| {
        let AfSpecUnspec::Inet6(inet6) = spec else { return None };
        inet6
            .iter()
            .find_map(|item| if let AfSpecInet6::AddrGenMode(mode) = item { Some(*mode) } else { None })
    })
}

fn mac_of(octets: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(octets).ok().and_then(|octets| Mac::try_from(octets).ok())
}

/// An address of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// The address with its prefix length: of a point-to-point link the near end.
    pub(super) net: IpNet,
    peer: Option<IpAddr>,
    scope: u8,
    pub(super) flags: AddressFlags,
    pub(super) lifetime: Lifetime,
}

impl Address {
    pub(super) const fn key(&self, device: DeviceName) -> AddressKey {
        AddressKey { device, address: self.net, peer: self.peer, scope: self.scope }
    }
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address, mut ends) = (None, None, false);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(near) => local = Some(*near),
            AddressAttribute::Address(far) => address = Some(*far),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::CacheInfo(info) => ends = (info.ifa_preferred, info.ifa_valid) != FOR_EVER,
            _ => {}
        }
    }
    // In IPv6 there is no near end where there is no far one.
    let near = local.or(address)?;
    let scope = if near.is_ipv4() { u8::from(message.header.scope) } else { 0 };
    let net = IpNet::new(near, message.header.prefix_len).ok()?;
    // An IPv4 address that is no source any more says that it is one for ever.
    let limited = ends || flags.contains(AddressFlags::Deprecated);
    let lifetime = if limited { Lifetime::Limited } else { Lifetime::Infinite };
    Some(Address { net, peer: address.filter(|far| *far != near), scope, flags, lifetime })
}

/// Preferred and valid lifetime in seconds, without an end.
const FOR_EVER: (u32, u32) = (u32::MAX, u32::MAX);

/// The MAC address of a forwarding database entry, and where it leads. `None` when it is not the device's own entry.
pub(super) fn fdb(message: &NeighbourMessage) -> Option<([u8; 6], FdbEntry)> {
    let (mut mac, mut destination, mut port, mut vni, mut bound) = (None, None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(octets) => mac = <[u8; 6]>::try_from(octets.as_slice()).ok(),
            NeighbourAttribute::Destination(address) => destination = ip(address),
            NeighbourAttribute::Port(number) => port = Port::try_from(u32::from(*number)).ok(),
            NeighbourAttribute::Vni(number) => vni = Vni::try_from(*number).ok(),
            NeighbourAttribute::IfIndex(_) => bound = true,
            _ => {}
        }
    }
    if !message.header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    // `bridge fdb add` sets both; either keeps it from being forgotten.
    let kept = u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp);
    let lasting = u16::from(message.header.state) & kept != 0;
    let group = destination.is_none();
    let destination = destination.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    Some((mac?, FdbEntry { destination, port, vni, lasting: lasting && !group, bound }))
}

/// The address of a neighbour, and its MAC address if it is permanent and ours.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Option<Mac>)> {
    let (mut mac, mut destination, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(octets) => mac = mac_of(octets),
            NeighbourAttribute::Destination(address) => destination = ip(address),
            NeighbourAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some((destination?, mac.filter(|_| ours && permanent)))
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        // Forwarding databases have both families under AF_BRIDGE.
        NeighbourAddress::Other(octets) => {
            let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(octets.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}
