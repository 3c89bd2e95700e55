//! Hosts as network namespaces: what a test, a benchmark or the demo needs of a machine room.
//!
//! ```text
//!  Lab ── owns names, directory, processes; all gone when it is dropped
//!   ├─ Fabric   namespace with one bridge: the underlay's segment
//!   │    │ veth
//!   ├─ Host     namespace with eth0 on the fabric, forwarding on; runs real processes
//!   │    │ bridge + veth
//!   └─ Container  namespace behind a bridge of its host, default route through it
//! ```
//!
//! Everything a lab makes lives in its own namespaces: the machine's own network is never
//! touched. Needs root. Namespaces have names in `/run/netns`, so that `ip netns exec` and
//! `nsenter` work while a test is stopped in a debugger.

mod cgroups;
mod container;
mod error;
mod fabric;
mod holdings;
mod host;
mod inside;
mod iproute;
mod lab;
mod links;
mod log;
mod namespace;
mod nft;
mod process;
mod record;
mod route_events;
mod tables;

pub use container::Container;
pub use error::Error;
pub use fabric::Fabric;
pub use holdings::Holdings;
pub use host::{Host, HostBuilder};
pub use inside::Inside;
pub use lab::Lab;
pub use log::Log;
pub use namespace::Namespace;
pub use process::Process;
pub(crate) use process::die_with_us;
pub use route_events::{RouteDeletions, RouteNotifications, route_prefix};
pub use tables::{Object, Tunnel, destination, link_layer_address};

/// An address with its prefix length, from a literal such as `"192.0.2.1/24"`.
///
/// # Panics
/// If the literal is none; it is for literals in tests.
#[must_use]
#[track_caller]
pub fn cidr(literal: &str) -> ipnet::IpNet {
    match literal.parse() {
        Ok(cidr) => cidr,
        Err(error) => panic!("{literal:?} is not ADDRESS/LENGTH: {error}"),
    }
}

/// An address, from a literal such as `"192.0.2.1"`.
///
/// # Panics
/// If the literal is none; it is for literals in tests.
#[must_use]
#[track_caller]
pub fn ip(literal: &str) -> std::net::IpAddr {
    match literal.parse() {
        Ok(address) => address,
        Err(error) => panic!("{literal:?} is not an address: {error}"),
    }
}
