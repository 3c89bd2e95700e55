//! Listens to what the kernel announces, and makes hints of it.

use std::collections::HashMap;

use netlink_packet_core::{NLM_F_REPLACE, NetlinkHeader, NetlinkPayload};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::sync::mpsc;

use super::decode::{self, Link};
use super::observe;
use super::requests::{Requests, kinds, messages};
use crate::hint::Hint;
use crate::socket::{enlarge, listen};
use crate::tables::{AddressKey, FdbKey, NeighbourKey, Route};
use crate::{DeviceName, Error};

/// Receive buffer in bytes: a bulk pass of our own is announced to us too.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// Groups of `rtnetlink(7)`: links, neighbours (forwarding databases among
/// them), addresses, routes and settings of both families.
const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];

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
        if kinds(bytes).any(|kind| kind == libc::RTM_NEWNETCONF) {
            hints.push(Hint::Settings);
        }
        for message in messages(bytes) {
            match message {
                Ok(Some(message)) => match message.payload {
                    NetlinkPayload::InnerMessage(inner) => hints.extend(self.hint(&message.header, inner)),
                    NetlinkPayload::Overrun(_) => hints.push(Hint::Overrun),
                    _ => {}
                },
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a notification could not be read");
                    hints.push(Hint::Overrun);
                }
            }
        }
        hints
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

    fn hint(&mut self, header: &NetlinkHeader, message: RouteNetlinkMessage) -> Option<Hint> {
        match message {
            // Bridges announce their ports under AF_BRIDGE: nothing new.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family == AddressFamily::Bridge =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(message) => {
                let link = Link::new(message)?;
                self.note(&link);
                let device = link.device(|index| self.name(index)).map(Box::new);
                Some(Hint::Device { name: link.name, device })
            }
            RouteNetlinkMessage::DelLink(message) => {
                let known = self.0.remove(&message.header.index)?;
                Some(Hint::DeviceGone(known.name))
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let device = self.name(message.header.index)?;
                Some(Hint::Address(AddressKey { device, address: decode::address(&message)? }))
            }
            RouteNetlinkMessage::DelAddress(message) => {
                let device = self.name(message.header.index)?;
                Some(Hint::AddressGone(AddressKey { device, address: decode::address(&message)? }))
            }
            RouteNetlinkMessage::NewNeighbour(message) => self.neighbour(&message, true),
            RouteNetlinkMessage::DelNeighbour(message) => self.neighbour(&message, false),
            RouteNetlinkMessage::NewRoute(message) => {
                self.route(&message, true, header.flags & NLM_F_REPLACE != 0)
            }
            RouteNetlinkMessage::DelRoute(message) => self.route(&message, false, false),
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

    /// A route of somebody else's may have replaced one of ours.
    fn route(&self, message: &RouteMessage, set: bool, replaces: bool) -> Option<Hint> {
        if let Some(key) = decode::blackhole(message) {
            return Some(if set { Hint::Blackhole(key) } else { Hint::BlackholeGone(key) });
        }
        let Some(route) = decode::main_route(message) else {
            // One that ends the way, and may have taken the place of ours.
            return decode::main_key(message).filter(|_| set && replaces).map(|key| Hint::Route(key, None));
        };
        let key = route.key();
        match (set, route.ours) {
            (false, true) => Some(Hint::RouteGone(key)),
            (true, true) => {
                let device = route.device.and_then(|index| self.name(index));
                let whole = device.zip(route.gateway);
                let onlink = route.onlink;
                Some(Hint::Route(key, whole.map(|(device, gateway)| Route { device, gateway, onlink })))
            }
            (true, false) if replaces => Some(Hint::Route(key, None)),
            (_, false) => Some(Hint::HostRoute(route.prefix)),
        }
    }
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
