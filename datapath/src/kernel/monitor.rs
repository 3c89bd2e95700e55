//! Listens to what the kernel announces, and makes hints of it.

use std::collections::HashMap;

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::sync::mpsc;

use super::decode::{self, Link};
use super::frames::{Frame, frames};
use super::netconf::{Netconf, Of};
use super::observe;
use super::requests::Requests;
use crate::hint::Hint;
use crate::socket::{enlarge, listen};
use crate::tables::{FdbKey, NeighbourKey, RouteKey, SysctlKey, metric};
use crate::{DeviceName, Error};

/// Receive buffer in bytes: a bulk pass of our own is announced to us too.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// Groups of `rtnetlink(7)`: links, neighbours (forwarding databases among
/// them), addresses, routes and settings of both families.
const GROUPS: [u32; 11] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// Next hops that routes share (`linux/rtnetlink.h`).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// A socket that listens, and the links there were when it began to.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Socket,
    links: Links,
}

#[derive(Debug, Default)]
struct Links(HashMap<u32, KnownLink>);

#[derive(Clone, Copy, Debug)]
struct KnownLink {
    name: DeviceName,
    ours: bool,
}

impl Monitor {
    /// Listens in the network namespace of the calling thread.
    pub(super) fn open(requests: &mut Requests) -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        enlarge(&socket, RECEIVE_BUFFER)?;
        // After the socket: whatever changes now is announced.
        let mut links = Links::default();
        for link in observe::links(requests)? {
            links.note(&link);
        }
        Ok(Self { socket, links })
    }

    /// Sends hints until nobody listens any more, or until an overrun: then links may have come that are not
    /// known here.
    pub(super) async fn run(self, hints: mpsc::Sender<Hint>) -> Result<(), Error> {
        let Self { socket, mut links } = self;
        Ok(listen(socket, hints, Hint::Overrun, |bytes| links.read(bytes)).await?)
    }
}

impl Links {
    /// The hints of a datagram. What cannot be read may be anything.
    fn read(&mut self, bytes: &[u8]) -> Vec<Hint> {
        let mut hints = Vec::new();
        for frame in frames(bytes) {
            match frame.and_then(|frame| self.hints(frame)) {
                Ok(more) => hints.extend(more),
                Err(error) => {
                    tracing::debug!(%error, "a notification could not be read");
                    hints.push(Hint::Overrun);
                }
            }
        }
        hints
    }

    fn hints(&mut self, frame: Frame<'_>) -> Result<Vec<Hint>, Error> {
        if frame.kind == libc::RTM_NEWNETCONF {
            return Ok(Netconf::read(frame.body())
                .map(|netconf| self.settings(&netconf))
                .unwrap_or_default());
        }
        if [RTM_NEWNEXTHOP, RTM_DELNEXTHOP].contains(&frame.kind) {
            // Routes of the host's go with it, without a word of their own in IPv4.
            return Ok(vec![Hint::Settings]);
        }
        let Some(message) = frame.message()? else { return Ok(Vec::new()) };
        Ok(match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => self.link(link),
            NetlinkPayload::InnerMessage(inner) => self.hint(inner).into_iter().collect(),
            NetlinkPayload::Overrun(_) => vec![Hint::Overrun],
            _ => Vec::new(),
        })
    }

    /// A device that is not known yet has only just been made: it is announced next.
    fn settings(&self, netconf: &Netconf) -> Vec<Hint> {
        match netconf.of {
            Of::All => vec![Hint::Settings],
            Of::Default => Vec::new(),
            Of::Device(index) => {
                let device = self.name(index).into_iter();
                let of =
                    |device| netconf.settings.iter().map(move |(setting, value)| (device, setting, value));
                let hint = |(device, setting, value): (_, &_, &_)| {
                    Hint::Setting(SysctlKey { device, setting: *setting }, *value)
                };
                device.flat_map(of).map(hint).collect()
            }
        }
    }

    fn note(&mut self, link: &Link) {
        self.0.insert(link.index, KnownLink { name: link.name, ours: link.is_ours() });
    }

    fn name(&self, index: u32) -> Option<DeviceName> {
        self.0.get(&index).map(|link| link.name)
    }

    fn ours(&self, index: u32) -> Option<DeviceName> {
        self.0.get(&index).filter(|link| link.ours).map(|link| link.name)
    }

    /// Under its name before there is no device any more.
    fn link(&mut self, message: LinkMessage) -> Vec<Hint> {
        let Some(link) = Some(message).filter(|message| !is_of_a_port(message)).and_then(Link::new) else {
            return Vec::new();
        };
        let before = self.name(link.index).filter(|name| *name != link.name);
        self.note(&link);
        let device = link.device(|index| self.name(index)).map(Box::new);
        let now = Hint::Device { name: link.name, device };
        before.map(Hint::DeviceGone).into_iter().chain([now]).collect()
    }

    fn hint(&mut self, message: RouteNetlinkMessage) -> Option<Hint> {
        match message {
            RouteNetlinkMessage::DelLink(message) if is_of_a_port(&message) => None,
            RouteNetlinkMessage::DelLink(message) => {
                let known = self.0.remove(&message.header.index)?;
                Some(Hint::DeviceGone(known.name))
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let device = self.name(message.header.index)?;
                let address = decode::address(&message)?;
                Some(Hint::Address(address.key(device), address.lifetime))
            }
            RouteNetlinkMessage::DelAddress(message) => {
                let device = self.name(message.header.index)?;
                Some(Hint::AddressGone(decode::address(&message)?.key(device)))
            }
            RouteNetlinkMessage::NewNeighbour(message) => self.neighbour(&message, true),
            RouteNetlinkMessage::DelNeighbour(message) => self.neighbour(&message, false),
            RouteNetlinkMessage::NewRoute(message) => self.route(&message, true),
            RouteNetlinkMessage::DelRoute(message) => self.route(&message, false),
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Hint::Settings),
            _ => None,
        }
    }

    fn neighbour(&self, message: &NeighbourMessage, set: bool) -> Option<Hint> {
        let Some(device) = self.ours(message.header.ifindex) else { return answer(message) };
        if message.header.family == AddressFamily::Bridge {
            let (mac, entry) = decode::fdb(message)?;
            let key = FdbKey { device, mac };
            Some(if set { Hint::Fdb(key, entry) } else { Hint::FdbGone(key) })
        } else {
            let (address, mac) = decode::neighbour(message)?;
            let key = NeighbourKey { device, address };
            Some(if set { Hint::Neighbour(key, mac) } else { Hint::NeighbourGone(key) })
        }
    }

    /// A route of somebody else's may have taken the place of one of ours, or have come before it or beside it.
    fn route(&self, message: &RouteMessage, set: bool) -> Option<Hint> {
        let route = decode::main_route(message)?;
        let key = route.key();
        if route.only.is_selective() {
            let place = RouteKey { prefix: route.prefix, metric: metric(route.prefix) };
            return (set && route.is_selective_rival()).then_some(Hint::Route(place, None));
        }
        if route.is_our_blackhole() {
            return Some(if set { Hint::Blackhole(key) } else { Hint::BlackholeGone(key) });
        }
        if !route.is_unicast() {
            return Some(if set { Hint::Route(key, None) } else { Hint::HostRouteGone(route.prefix) });
        }
        Some(match (set, route.is_ours()) {
            (false, true) => Hint::RouteGone(key),
            (false, false) => Hint::HostRouteGone(route.prefix),
            (true, true) => {
                let device = route.device.and_then(|index| self.name(index));
                Hint::Route(key, device.and_then(|device| route.as_ours(device)))
            }
            (true, false) => Hint::Route(key, None),
        })
    }
}

/// Bridges announce their ports under `AF_BRIDGE`: nothing new.
fn is_of_a_port(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Bridge
}

/// What a neighbour on a link of the host's has come to.
fn answer(message: &NeighbourMessage) -> Option<Hint> {
    let answers = match message.header.state {
        _ if message.header.family == AddressFamily::Bridge => return None,
        NeighbourState::Reachable => true,
        NeighbourState::Failed => false,
        _ => return None,
    };
    Some(Hint::Answer { address: decode::neighbour(message)?.0, answers })
}
