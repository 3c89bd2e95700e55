//! Which addresses are on a link of this host.

use std::net::IpAddr;

use loden_proto::model::Subnets;

use crate::facts::{HostFacts, HostRoute};
use crate::name::DeviceName;
use crate::prefixes::Prefixes;

/// A link of a host's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The interface on it.
    pub device: DeviceName,
    /// The MTU of that in bytes.
    pub mtu: u32,
}

/// A host's routes as far as they tell neighbours from others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Links(Prefixes<Option<Link>>);

impl Links {
    /// Reads them from a host's routes. Those below our own subnets are our
    /// pods', and come and go.
    #[must_use]
    pub fn of(facts: &HostFacts, own: &Subnets) -> Self {
        let concerns = |route: &HostRoute| !own.iter().any(|subnet| subnet.contains(&route.prefix));
        let link = |route: &HostRoute| {
            let device = route.device.filter(|_| route.gateway.is_none())?;
            let nic = facts.interface(device).filter(|nic| nic.broadcast && !nic.ours)?;
            Some(Link { device, mtu: nic.mtu })
        };
        Self(facts.best_routes(concerns, link))
    }

    /// The link that an address is on; `None` when the way there leads through
    /// a gateway or a point-to-point device, or when there is none.
    #[must_use]
    pub fn to(&self, address: IpAddr) -> Option<Link> {
        self.0.lookup(address).copied().flatten()
    }

    /// Whether a device is one of the links.
    #[must_use]
    pub fn has(&self, device: DeviceName) -> bool {
        self.0.values().flatten().any(|link| link.device == device)
    }
}
