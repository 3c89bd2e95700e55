//! Removes everything of ours, whatever network it is of, and nothing else.

use std::fmt::{self, Display};

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::decode::{self, Link, Owner};
use super::requests::Requests;
use super::{elsewhere, encode, observe};
use crate::tables::PROTOCOL;
use crate::{DeviceName, Error};

/// Something of ours in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Remnant {
    /// A device.
    Device(DeviceName),
    /// A device that was moved to another network namespace.
    Moved(DeviceName),
    /// A bridge that pods were attached to.
    Bridge(DeviceName),
    /// A route.
    Route(IpNet),
}

impl Display for Remnant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "device {name}"),
            Self::Moved(name) => write!(f, "device {name} in another network namespace"),
            Self::Bridge(name) => write!(f, "bridge {name}"),
            Self::Route(prefix) => write!(f, "route {prefix}"),
        }
    }
}

/// What became of everything of ours.
#[derive(Debug, Default)]
pub struct Cleared {
    /// What is gone.
    pub removed: Vec<Remnant>,
    /// Bridges that stay, since something is attached to them.
    pub lent: Vec<DeviceName>,
    /// What could not be removed.
    pub failed: Vec<(Remnant, Error)>,
}

impl Cleared {
    fn note(&mut self, remnant: Remnant, result: Result<(), Error>) {
        match result {
            Ok(()) => self.removed.push(remnant),
            // Somebody else was faster, or it went with another one.
            Err(Error::Kernel(error)) if [libc::ENODEV, libc::ESRCH].contains(&error.errno) => {}
            Err(error) => self.failed.push((remnant, error)),
        }
    }
}

/// Removes devices of ours with what is on them, also those that were moved from here, then routes of ours, then those
/// of `bridges` that nothing is attached to.
pub(super) fn everything(requests: &mut Requests, bridges: &[DeviceName]) -> Result<Cleared, Error> {
    let mut cleared = Cleared::default();
    let links = observe::links(requests)?;
    for link in links.iter().filter(|link| is_ours(link)) {
        let result = requests.write_one(encode::delete_device(link.index), encode::PLAIN);
        cleared.note(Remnant::Device(link.name), result);
    }
    // As an agent finds them, whatever they are called there.
    for moved in elsewhere::all(requests, |link| link.owner() == Owner::Ours)? {
        let result = elsewhere::delete(requests, &moved);
        cleared.note(Remnant::Moved(moved.link.name), result);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for route in routes(requests, family)? {
            let Some(prefix) = decode::prefix(&route) else { continue };
            let result = requests.write_one(RouteNetlinkMessage::DelRoute(key(&route)), encode::PLAIN);
            cleared.note(Remnant::Route(prefix), result);
        }
    }
    let is_lent = |link: &&Link| link.kind == Some(InfoKind::Bridge) && bridges.contains(&link.name);
    for link in links.iter().filter(is_lent) {
        if links.iter().any(|port| port.controller == Some(link.index)) {
            cleared.lent.push(link.name);
            continue;
        }
        let result = requests.write_one(encode::delete_device(link.index), encode::PLAIN);
        cleared.note(Remnant::Bridge(link.name), result);
    }
    Ok(cleared)
}

/// A tunnel with an alias of ours and the name that we give to one of its VNI.
fn is_ours(link: &Link) -> bool {
    link.has_our_name() && link.parsed_alias().is_some()
}

fn routes(requests: &mut Requests, family: AddressFamily) -> Result<Vec<RouteMessage>, Error> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.header.protocol = RouteProtocol::Other(PROTOCOL);
    let answers = requests.dump(&RouteNetlinkMessage::GetRoute(question))?;
    let routes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    });
    Ok(routes.filter(|route| decode::main_route(route).is_some_and(|route| route.is_ours())).collect())
}

/// What makes it that one route.
fn key(route: &RouteMessage) -> RouteMessage {
    let mut key = RouteMessage::default();
    key.header = route.header.clone();
    key.header.flags = Default::default();
    let identifies = |attribute: &&RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Source(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Table(_)
                | RouteAttribute::Oif(_)
        )
    };
    key.attributes = route.attributes.iter().filter(identifies).cloned().collect();
    key
}
