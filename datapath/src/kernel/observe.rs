//! Reads a network's part of the kernel: only devices of ours and what is on
//! them, and what is in the places of our routes.

use std::collections::HashMap;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::decode::{self, Link, MainRoute};
use super::requests::Requests;
use super::sysctl;
use crate::hint::Scope;
use crate::tables::{
    BLACKHOLE_METRIC, FdbKey, Kind, NeighbourKey, RemoteKey, Rival, RouteKey, Setting, SysctlKey, Tables,
    metric,
};
use crate::tunnel::engine::Engine;
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
pub(super) fn tables(requests: &mut Requests, engine: &Engine, scope: &Scope) -> Result<Tables, Error> {
    let links = links(requests)?;
    let names: HashMap<u32, DeviceName> = links.iter().map(|link| (link.index, link.name)).collect();
    let mut tables = Tables::default();
    for link in &links {
        let device = link.device(|index| names.get(&index).copied());
        let Some(device) = device.filter(|device| scope.has(link.name, device)) else { continue };
        let is_tun = device.kind == Kind::Tun;
        tables.devices.insert(link.name, device);
        settings(link.name, &mut tables)?;
        addresses(requests, link, &mut tables)?;
        if is_tun {
            tunnel(engine, link.name, &mut tables);
            continue;
        }
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

/// What this process does with a TUN device.
fn tunnel(engine: &Engine, device: DeviceName, tables: &mut Tables) {
    let Some(listening) = engine.listening(device) else { return };
    tables.listening.insert(device, listening.clone());
    let remotes = engine.remotes(device).into_iter().flatten();
    tables
        .remotes
        .extend(remotes.map(|(endpoint, behind)| (RemoteKey { device, endpoint: *endpoint }, *behind)));
}

fn settings(device: DeviceName, tables: &mut Tables) -> Result<(), Error> {
    for setting in Setting::ALL {
        let key = SysctlKey { device, setting };
        tables.sysctls.insert(key, sysctl::read(key)?.unwrap_or_else(|| setting.wanted()));
    }
    Ok(())
}

/// All but link-local ones: whatever else is on our device has a say in which address packets are sent from, and
/// brings a route along that is better than ours.
fn addresses(requests: &mut Requests, link: &Link, tables: &mut Tables) -> Result<(), Error> {
    let mut question = AddressMessage::default();
    question.header.index = link.index;
    for answer in requests.dump(&RouteNetlinkMessage::GetAddress(question))? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let Some(address) = decode::address(&message).filter(|_| message.header.index == link.index) else {
            continue;
        };
        if !is_link_local(&address.net) {
            tables.addresses.insert(address.key(link.name), address.lifetime);
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
        if let Some((mac, entry)) = decode::fdb(&message) {
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
    for message in neighbours_on(requests, link.index, family)? {
        if let Some((address, Some(mac))) = decode::neighbour(&message) {
            tables.neighbours.insert(NeighbourKey { device: link.name, address }, mac);
        }
    }
    Ok(())
}

/// The neighbours on a link.
pub(super) fn neighbours_on(
    requests: &mut Requests,
    link: u32,
    family: AddressFamily,
) -> Result<impl Iterator<Item = NeighbourMessage>, Error> {
    let mut question = NeighbourMessage::default();
    question.header.family = family;
    question.attributes.push(NeighbourAttribute::IfIndex(link));
    let answers = requests.dump(&RouteNetlinkMessage::GetNeighbour(question))?;
    Ok(answers.into_iter().filter_map(move |answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message)
            if message.header.ifindex == link && message.header.family == family =>
        {
            Some(message)
        }
        _ => None,
    }))
}

/// Routes of ours over the network's devices, and over devices that are nobody's
/// of ours into its pools or into those of no network; and whose routes else are
/// in their places.
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
    question.header.table = RouteHeader::RT_TABLE_MAIN;
    for answer in requests.dump(&RouteNetlinkMessage::GetRoute(question))? {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        let Some(route) = decode::main_route(&message) else { continue };
        let link = route.device.and_then(|index| by_index.get(&index));
        let on_ours = link.is_some_and(|link| tables.devices.contains_key(&link.name));
        let anothers = !on_ours && route.is_ours() && link.is_some_and(|link| link.is_ours());
        let left = route.is_ours() && scope.is_nobodys(&route.prefix);
        let (key, covered) = (route.key(), (scope.covers(&route.prefix) || left) && !anothers);
        if route.only.is_selective() {
            if route.is_selective_rival() && (covered || (on_ours && route.is_ours())) {
                tables.rivals.insert(rival(&route), ());
            }
            continue;
        }
        let whole = link.filter(|_| route.is_ours() && route.is_unicast());
        if let Some(link) = whole
            && (on_ours || covered)
            && !tables.routes.contains_key(&key)
        {
            // Otherwise missing as it should be: setting it replaces it as a whole.
            tables.routes.extend(route.as_ours(link.name).map(|ours| (key, ours)));
        } else if covered && route.is_our_blackhole() && key.metric != metric(key.prefix) {
            tables.blackholes.insert(key, ());
        } else if covered && may_be_ours(key) && !is_replaced_whole(&route) {
            tables.rivals.insert(rival(&route), ());
        }
    }
    Ok(())
}

fn rival(route: &MainRoute) -> Rival {
    let MainRoute { device, gateway, only, .. } = *route;
    let (kind, protocol) = (route.kind.into(), route.protocol.into());
    Rival { key: route.key(), kind, protocol, device, gateway, only }
}

/// Whether a route of ours may have the key; see [`metric`].
fn may_be_ours(key: RouteKey) -> bool {
    [metric(key.prefix), BLACKHOLE_METRIC].contains(&key.metric)
}

/// IPv6 makes one route with several next hops of all gateways to one prefix
/// with one metric. Setting ours replaces it as a whole.
fn is_replaced_whole(route: &MainRoute) -> bool {
    route.is_unicast() && route.device.is_none() && route.prefix.addr().is_ipv6()
}
