//! Which routes are deleted from a namespace's kernel, as its notifications tell.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::MulticastGroup;
use tokio::{runtime, task::JoinHandle};

use super::{Error, Namespace, error::Doing};

/// Listens until it is dropped.
#[derive(Debug)]
pub struct RouteDeletions {
    seen: Arc<Mutex<Vec<IpNet>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Namespace {
    /// Listens for deleted routes, from now on, that somebody with this protocol number has made.
    pub fn route_deletions(&self, protocol: RouteProtocol) -> Result<RouteDeletions, Error> {
        let runtime = runtime::Handle::current();
        let connected = self.enter(|| {
            let _inside = runtime.enter();
            rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route])
        });
        let (connection, _, mut messages) =
            connected.doing(|| format!("listen to the routes of {}", self.full_name()))?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn(connection);
        let noting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Some((message, _)) = messages.next().await {
                    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) =
                        message.payload
                        && route.header.protocol == protocol
                    {
                        lock(&seen).extend(destination(&route));
                    }
                }
            }
        });
        Ok(RouteDeletions { seen, tasks: [listening, noting] })
    }
}

impl RouteDeletions {
    /// Where the deleted routes led to, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<IpNet> {
        lock(&self.seen).clone()
    }
}

impl Drop for RouteDeletions {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// Every note is one statement.
fn lock(seen: &Mutex<Vec<IpNet>>) -> MutexGuard<'_, Vec<IpNet>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
