//! Tunnels that were made here and moved to another network namespace.
//!
//! A VXLAN device keeps its socket, its VNI and its port where it was made. The kernel gives the
//! namespace that a device moves to a number here, by which it can be asked for that namespace's devices.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::unistd::gettid;

use super::decode::Link;
use super::encode;
use super::requests::Requests;
use crate::Error;

/// A device in another network namespace.
pub(super) struct Moved {
    pub(super) link: Link,
    namespace: i32,
}

/// A device that was made here and now is where it can be asked for.
pub(super) fn find(requests: &mut Requests, is_it: impl Fn(&Link) -> bool) -> Result<Option<Moved>, Error> {
    Ok(all(requests, is_it)?.into_iter().next())
}

/// The devices that were made here and now are where they can be asked for.
pub(super) fn all(requests: &mut Requests, is_it: impl Fn(&Link) -> bool) -> Result<Vec<Moved>, Error> {
    let mut moved = Vec::new();
    for namespace in namespaces(requests)? {
        // One that has just ended has no devices.
        let Ok(answers) = requests.dump(&links_of(namespace)) else { continue };
        for answer in answers {
            let RouteNetlinkMessage::NewLink(message) = answer else { continue };
            let made_in = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::LinkNetNsId(number) => Some(*number),
                _ => None,
            });
            let Some(link) = Link::new(message) else { continue };
            if is_it(&link) && made_in.is_some() && made_in == own(requests)? {
                moved.push(Moved { link, namespace });
            }
        }
    }
    Ok(moved)
}

/// Deletes it where it is.
pub(super) fn delete(requests: &mut Requests, moved: &Moved) -> Result<(), Error> {
    let mut message = encode::delete_device(moved.link.index);
    if let RouteNetlinkMessage::DelLink(message) = &mut message {
        message.attributes.push(LinkAttribute::IfNetnsId(moved.namespace));
    }
    requests.write_one(message, encode::PLAIN)
}

/// The network namespaces that have a number here.
fn namespaces(requests: &mut Requests) -> Result<Vec<i32>, Error> {
    let answers = requests.dump(&RouteNetlinkMessage::GetNsId(NsidMessage::default()))?;
    Ok(answers.iter().filter_map(number).collect())
}

/// The number of this network namespace, which it has once a device elsewhere is told to be from here.
fn own(requests: &mut Requests) -> Result<Option<i32>, Error> {
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Pid(gettid().as_raw().unsigned_abs()));
    let answer = requests.ask(RouteNetlinkMessage::GetNsId(question))?;
    Ok(number(&answer).filter(|number| *number >= 0))
}

fn number(answer: &RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(number) => Some(*number),
        _ => None,
    })
}

fn links_of(namespace: i32) -> RouteNetlinkMessage {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfNetnsId(namespace));
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(question)
}
