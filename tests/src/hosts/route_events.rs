//! What a namespace's kernel tells of its routes, and which of them are deleted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{BoxStream, StreamExt};
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::MulticastGroup;
use tokio::{runtime, task::JoinHandle};

use super::{Error, Namespace, error::Doing};

/// Notifications of routes of both families. Listens until it is dropped.
pub struct RouteNotifications {
    messages: BoxStream<'static, RouteNetlinkMessage>,
    listening: JoinHandle<()>,
}

impl RouteNotifications {
    /// The next one; `None` when there can be no more.
    pub async fn next(&mut self) -> Option<RouteNetlinkMessage> {
        self.messages.next().await
    }
}

impl Drop for RouteNotifications {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct RouteDeletions {
    seen: Arc<Mutex<Vec<IpNet>>>,
    noting: JoinHandle<()>,
}

impl Namespace {
    /// Listens to what becomes of routes, from now on.
    pub fn route_notifications(&self) -> Result<RouteNotifications, Error> {
        let runtime = runtime::Handle::current();
        let connected = self.enter(|| {
            let _inside = runtime.enter();
            rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route])
        });
        let (connection, _, messages) =
            connected.doing(|| format!("listen to the routes of {}", self.full_name()))?;
        let inner = messages.filter_map(async |(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        });
        Ok(RouteNotifications { messages: inner.boxed(), listening: tokio::spawn(connection) })
    }

    /// Listens for deleted routes, from now on, that somebody with this protocol number has made.
    pub fn route_deletions(&self, protocol: RouteProtocol) -> Result<RouteDeletions, Error> {
        let mut notifications = self.route_notifications()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Some(message) = notifications.next().await {
                    if let RouteNetlinkMessage::DelRoute(route) = message
                        && route.header.protocol == protocol
                    {
                        lock(&seen).extend(route_prefix(&route));
                    }
                }
            }
        });
        Ok(RouteDeletions { seen, noting })
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
        self.noting.abort();
    }
}

/// Where a route leads to; `None` of a default route.
#[must_use]
pub fn route_prefix(route: &RouteMessage) -> Option<IpNet> {
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
