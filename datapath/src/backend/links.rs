//! Which addresses are on a link of this host.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::Subnets;

use crate::facts::HostFacts;
use crate::name::DeviceName;

/// A host's routes as far as they tell neighbours from others: the longest
/// prefix first, among equals the best metric first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Links(Vec<(IpNet, Option<DeviceName>)>);

impl Links {
    /// Reads them from a host's routes. Those below our own subnets are our
    /// pods', and come and go.
    #[must_use]
    pub fn of(facts: &HostFacts, own: &Subnets) -> Self {
        let concerns = |prefix: &IpNet| !own.iter().any(|subnet| subnet.contains(prefix));
        let mut routes: Vec<_> = facts.routes.iter().filter(|route| concerns(&route.prefix)).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.prefix.prefix_len()), route.metric));
        let link = |route: &&crate::facts::HostRoute| {
            let device = route.device.filter(|_| route.gateway.is_none());
            device.filter(|device| facts.interface(*device).is_some_and(|nic| nic.broadcast && !nic.ours))
        };
        Self(routes.iter().map(|route| (route.prefix, link(route))).collect())
    }

    /// The link that an address is on; `None` when the way there leads through
    /// a gateway or a point-to-point device, or when there is none.
    #[must_use]
    pub fn device_to(&self, address: IpAddr) -> Option<DeviceName> {
        self.0.iter().find(|(prefix, _)| prefix.contains(&address))?.1
    }

    /// Whether a device is one of the links.
    #[must_use]
    pub fn has(&self, device: DeviceName) -> bool {
        self.0.iter().any(|(_, link)| *link == Some(device))
    }
}
