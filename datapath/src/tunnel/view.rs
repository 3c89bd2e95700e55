//! What the threads of a network's tunnel look at: swapped whole.

use std::net::SocketAddr;
use std::sync::Arc;

use super::peers::Peers;
use super::port::Port;

/// A network's peers, and the ports by which they are reached.
#[derive(Debug)]
pub struct View {
    /// The peers.
    pub peers: Peers,
    /// Whether many datagrams may be sent at once to whomever.
    pub gathers: bool,
    /// The port on an IPv4 address of this host, if there is one.
    pub v4: Option<Arc<Port>>,
    /// The port on an IPv6 address of this host, if there is one.
    pub v6: Option<Arc<Port>>,
}

impl View {
    /// The port of the family of an endpoint.
    #[must_use]
    pub fn port_to(&self, endpoint: SocketAddr) -> Option<&Arc<Port>> {
        if endpoint.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}
