//! What is below: interfaces, addresses, default routes.

use std::collections::HashMap;
use std::net::IpAddr;

use loden_proto::model::Family;
use netlink_packet_route::address::{AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;

use super::requests::Requests;
use super::{decode, encode, observe, sysctl};
use crate::facts::{DefaultRoute, HostFacts, HostRoute, Interface, InterfaceAddress, RouteLookup};
use crate::{DeviceName, Error};

pub(super) fn facts(requests: &mut Requests) -> Result<HostFacts, Error> {
    let links = observe::links(requests)?;
    let names: HashMap<u32, DeviceName> = links.iter().map(|link| (link.index, link.name)).collect();
    let mut addresses = addresses(requests)?;
    let mut interfaces: Vec<Interface> = links
        .iter()
        .map(|link| Interface {
            index: link.index,
            name: link.name,
            kind: link.kind.as_ref().map(ToString::to_string),
            mtu: link.mtu,
            mac: link.mac,
            up: link.flags.contains(LinkFlags::Up),
            running: link.flags.contains(LinkFlags::Running),
            loopback: link.flags.contains(LinkFlags::Loopback),
            broadcast: link.flags.contains(LinkFlags::Broadcast)
                && !link.flags.intersects(LinkFlags::Pointopoint | LinkFlags::Noarp),
            strict: false,
            forwards: true,
            ours: link.is_ours(),
            network: link.parsed_alias().map(|alias| alias.network),
            qdisc: link.qdisc.clone(),
            addresses: addresses.remove(&link.index).unwrap_or_default(),
        })
        .collect();
    for interface in interfaces.iter_mut().filter(|interface| !interface.addresses.is_empty()) {
        interface.strict = sysctl::is_strict(interface.name);
        interface.forwards = sysctl::device_forwards(interface.name);
    }
    interfaces.sort_by_key(|interface| interface.index);
    let underlay = interfaces.iter().filter(|interface| !interface.loopback && !interface.ours);
    let connected = underlay.flat_map(|interface| {
        let global = interface.addresses.iter().filter(|address| address.global);
        global.map(|address| (interface.name, address.net.trunc()))
    });
    let connected = connected.collect();
    let matters = |interface: &&Interface| {
        interface.ours || interface.kind.as_deref() == Some("bridge") || !interface.addresses.is_empty()
    };
    let v6_off = sysctl::v6_off(interfaces.iter().filter(matters).map(|interface| interface.name));
    let mut facts = HostFacts {
        interfaces,
        connected,
        forwards: sysctl::forwards(),
        neighbour_limits: sysctl::neighbour_limits(),
        v6_off,
        ..HostFacts::default()
    };
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        routes(requests, family, &names, &mut facts)?;
        if has_rules(requests, family)? {
            facts.ruled.push(if family == AddressFamily::Inet { Family::V4 } else { Family::V6 });
        }
    }
    Ok(facts)
}

fn addresses(requests: &mut Requests) -> Result<HashMap<u32, Vec<InterfaceAddress>>, Error> {
    let mut addresses: HashMap<u32, Vec<InterfaceAddress>> = HashMap::new();
    for answer in requests.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let Some(address) = decode::address(&message) else { continue };
        let flags = address.flags;
        addresses.entry(message.header.index).or_default().push(InterfaceAddress {
            net: address.net,
            permanent: flags.contains(AddressFlags::Permanent),
            secondary: flags.contains(AddressFlags::Secondary),
            deprecated: flags.contains(AddressFlags::Deprecated),
            tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
            global: message.header.scope == AddressScope::Universe,
        });
    }
    Ok(addresses)
}

/// Routes of the main table that are not ours; default routes again by
/// themselves, the best metric first, each next hop alone.
fn routes(
    requests: &mut Requests,
    family: AddressFamily,
    names: &HashMap<u32, DeviceName>,
    facts: &mut HostFacts,
) -> Result<(), Error> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.header.table = RouteHeader::RT_TABLE_MAIN;
    let mut defaults = Vec::new();
    for answer in requests.dump(&RouteNetlinkMessage::GetRoute(question))? {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        let Some(route) = decode::main_route(&message) else { continue };
        let drops = route.drops();
        if route.is_ours() || !(route.is_unicast() || drops) {
            continue;
        }
        let (prefix, gateway, metric) = (route.prefix, route.gateway, route.metric);
        // IPv6 names the loopback device for those that drop.
        let device = route.device.filter(|_| !drops).and_then(|index| names.get(&index)).copied();
        facts.routes.push(HostRoute { prefix, device, gateway, metric, drops });
        if drops || prefix.prefix_len() > 0 {
            continue;
        }
        let single = route.device.map(|device| (device, gateway));
        for (device, gateway) in single.into_iter().chain(next_hops(&message)) {
            let Some(device) = names.get(&device).copied() else { continue };
            defaults.push(DefaultRoute { family: Family::of_net(prefix), device, gateway, metric });
        }
    }
    defaults.sort_by_key(|route| route.metric);
    facts.default_routes.extend(defaults);
    Ok(())
}

/// Whether there are rules that send packets elsewhere than to the tables that every kernel looks at.
fn has_rules(requests: &mut Requests, family: AddressFamily) -> Result<bool, Error> {
    let mut question = RuleMessage::default();
    question.header.family = family;
    let rules = match requests.dump(&RouteNetlinkMessage::GetRule(question)) {
        Err(Error::Kernel(error)) if error.errno == libc::EOPNOTSUPP => return Ok(false),
        rules => rules?,
    };
    let usual = [libc::RT_TABLE_LOCAL, libc::RT_TABLE_MAIN, libc::RT_TABLE_DEFAULT];
    let is_usual = |rule: &RuleMessage| {
        let named = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = named.unwrap_or_else(|| rule.header.table.into());
        rule.header.action == RuleAction::ToTable && usual.iter().any(|usual| u32::from(*usual) == table)
    };
    Ok(rules.iter().any(|answer| matches!(answer, RouteNetlinkMessage::NewRule(rule) if !is_usual(rule))))
}

/// The next hops of a multipath route, which has no output device of its own.
fn next_hops(message: &RouteMessage) -> impl Iterator<Item = (u32, Option<IpAddr>)> + '_ {
    let hops = message.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    hops.flatten().map(|hop: &RouteNextHop| {
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => decode::route_ip(address),
            _ => None,
        });
        (hop.interface_index, gateway)
    })
}

/// The neighbours on a link that the kernel has given up asking.
pub(super) fn unanswered(requests: &mut Requests, link: u32) -> Result<Vec<IpAddr>, Error> {
    let mut silent = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in observe::neighbours_on(requests, link, family)? {
            if message.header.state == NeighbourState::Failed {
                silent.extend(decode::neighbour(&message).map(|(address, _)| address));
            }
        }
    }
    Ok(silent)
}

/// Has the kernel ask for neighbours on a link (`NTF_USE`).
pub(super) fn ask(requests: &mut Requests, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
    let index = if_nametoindex(device.as_str()).map_err(|_| Error::NoDevice(device))?;
    for address in addresses {
        requests.write_one(RouteNetlinkMessage::NewNeighbour(encode::ask(index, *address)), encode::SET)?;
    }
    Ok(())
}

/// How the kernel would send to an address; `None` when it would not.
pub(super) fn route_to(requests: &mut Requests, address: IpAddr) -> Result<Option<RouteLookup>, Error> {
    let mut question = RouteMessage::default();
    question.header.address_family = encode::family_of(address);
    question.header.destination_prefix_length = Family::of(address).bits();
    question.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    let answer = match requests.ask(RouteNetlinkMessage::GetRoute(question)) {
        Ok(answer) => answer,
        Err(Error::Kernel(error))
            if [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES].contains(&error.errno) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let RouteNetlinkMessage::NewRoute(message) = answer else { return Ok(None) };
    if ![RouteType::Unicast, RouteType::Local].contains(&message.header.kind) {
        return Ok(None);
    }
    let (mut index, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(address) => gateway = decode::route_ip(address),
            RouteAttribute::PrefSource(address) => source = decode::route_ip(address),
            _ => {}
        }
    }
    let links = observe::links(requests)?;
    let device = links.iter().find(|link| Some(link.index) == index).map(|link| link.name);
    Ok(device.map(|device| RouteLookup { device, gateway, source }))
}
