//! Reads a network's part of the kernel: only devices of ours, and only what
//! is ours on them.

use std::collections::HashMap;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::decode::{self, Link};
use super::requests::Requests;
use super::sysctl;
use crate::hint::Scope;
use crate::tables::{AddressKey, FdbKey, NeighbourKey, PROTOCOL, Route, Setting, SysctlKey, Tables};
use crate::{DeviceName, Error};

/// All links of the namespace.
pub(super) fn links(requests: &mut Requests) -> Result<Vec<Link>, Error> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = requests.dump(&RouteNetlinkMessage::GetLink(question))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Link::new(message),
        _ => None,
    });
    Ok(links.collect())
}

/// The tables of a network.
pub(super) fn tables(requests: &mut Requests, scope: &Scope) -> Result<Tables, Error> {
    let links = links(requests)?;
    let names: HashMap<u32, DeviceName> = links.iter().map(|link| (link.index, link.name)).collect();
    let mut tables = Tables::default();
    for link in &links {
        let in_scope = match link.parsed_alias() {
            Some(alias) => alias.network == scope.network,
            None => link.alias.is_none() && scope.names.contains(&link.name),
        };
        if !in_scope {
            continue;
        }
        let Some(device) = link.device(|index| names.get(&index).copied()) else { continue };
        tables.devices.insert(link.name, device);
        settings(link.name, &mut tables)?;
        addresses(requests, link, &mut tables)?;
        fdb(requests, link, &mut tables)?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            neighbours(requests, link, family, &mut tables)?;
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        routes(requests, scope, &links, family, &mut tables)?;
    }
    Ok(tables)
}

fn settings(device: DeviceName, tables: &mut Tables) -> Result<(), Error> {
    for setting in Setting::ALL {
        let key = SysctlKey { device, setting };
        tables.sysctls.insert(key, sysctl::read(key)?.unwrap_or_else(|| setting.wanted()));
    }
    Ok(())
}

/// Whole addresses that are valid beyond the link; others on our device were
/// put there by somebody else.
fn addresses(requests: &mut Requests, link: &Link, tables: &mut Tables) -> Result<(), Error> {
    let mut question = AddressMessage::default();
    question.header.index = link.index;
    for answer in requests.dump(&RouteNetlinkMessage::GetAddress(question))? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let Some(address) = decode::address(&message).filter(|_| message.header.index == link.index) else {
            continue;
        };
        if address.prefix_len() == address.max_prefix_len() && !is_link_local(&address) {
            tables.addresses.insert(AddressKey { device: link.name, address }, ());
        }
    }
    Ok(())
}

const fn is_link_local(net: &ipnet::IpNet) -> bool {
    match net {
        ipnet::IpNet::V4(net) => net.addr().is_link_local(),
        ipnet::IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

fn fdb(requests: &mut Requests, link: &Link, tables: &mut Tables) -> Result<(), Error> {
    let mut question = NeighbourMessage::default();
    question.header.family = AddressFamily::Bridge;
    question.header.ifindex = link.index;
    for answer in requests.dump(&RouteNetlinkMessage::GetNeighbour(question))? {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
        if message.header.ifindex != link.index {
            continue;
        }
        if let Some((mac, Some(entry))) = decode::fdb(&message) {
            tables.fdb.insert(FdbKey { device: link.name, mac }, entry);
        }
    }
    Ok(())
}

fn neighbours(
    requests: &mut Requests,
    link: &Link,
    family: AddressFamily,
    tables: &mut Tables,
) -> Result<(), Error> {
    let mut question = NeighbourMessage::default();
    question.header.family = family;
    question.attributes.push(NeighbourAttribute::IfIndex(link.index));
    for answer in requests.dump(&RouteNetlinkMessage::GetNeighbour(question))? {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
        if message.header.ifindex != link.index || message.header.family != family {
            continue;
        }
        if let Some((address, Some(mac))) = decode::neighbour(&message) {
            tables.neighbours.insert(NeighbourKey { device: link.name, address }, mac);
        }
    }
    Ok(())
}

/// Routes of ours over the network's devices, and into its pools over devices
/// that are nobody's of ours.
fn routes(
    requests: &mut Requests,
    scope: &Scope,
    links: &[Link],
    family: AddressFamily,
    tables: &mut Tables,
) -> Result<(), Error> {
    let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.header.protocol = RouteProtocol::Other(PROTOCOL);
    for answer in requests.dump(&RouteNetlinkMessage::GetRoute(question))? {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        if let Some(key) = decode::blackhole(&message).filter(|key| scope.covers(&key.prefix)) {
            tables.blackholes.insert(key, ());
        }
        let Some(route) = decode::main_route(&message).filter(|route| route.ours) else { continue };
        let Some(link) = route.device.and_then(|index| by_index.get(&index)) else { continue };
        let Some(gateway) = route.gateway else { continue };
        let ours = tables.devices.contains_key(&link.name);
        if ours || (scope.covers(&route.prefix) && !link.is_ours()) {
            let key = route.key();
            tables.routes.insert(key, Route { device: link.name, gateway, onlink: route.onlink });
        }
    }
    Ok(())
}
