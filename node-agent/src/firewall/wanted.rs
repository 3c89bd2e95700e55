//! What the networks of the agent want of the packet filter: pure.

use std::ops::Deref;

use loden_datapath::firewall::{Member, Traffic, masquerade};
use loden_proto::model::{Backend, Pool};
use loden_proto::names::NetworkId;

use crate::status::Overview;

/// What is wanted, as far as it is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wanted {
    /// The networks that are known.
    pub(super) members: Vec<Member>,
    /// What has to pass the host for them.
    pub(super) traffic: Vec<Traffic>,
    /// Whether every network of the agent is known.
    pub(super) all_known: bool,
}

impl Wanted {
    pub(super) fn of<'a>(
        overviews: impl IntoIterator<Item = (&'a NetworkId, impl Deref<Target = Overview>)>,
    ) -> Self {
        let mut wanted = Self { all_known: true, ..Self::default() };
        for (_, overview) in overviews {
            let applied = &overview.applied;
            if applied.ended.is_some() {
                continue;
            }
            let Some((held, network)) = &applied.lease else {
                wanted.all_known = false;
                continue;
            };
            let pools: Vec<_> = network.pools.iter().map(Pool::cidr).collect();
            let subnets: Vec<_> = held.subnets.iter().collect();
            if !applied.devices.links.is_empty() {
                let tunnel = match network.backend {
                    Backend::Vxlan(vxlan) => Some((vxlan.port.get(), applied.devices.families.clone())),
                    Backend::Alloc | Backend::HostGw => None,
                };
                wanted.traffic.push(Traffic {
                    network: network.id.clone(),
                    pools: pools.clone(),
                    subnets: subnets.clone(),
                    pods: applied.devices.pods.clone(),
                    links: applied.devices.links.clone(),
                    lower: applied.devices.lower.clone(),
                    tunnel,
                });
            }
            let (network, masquerade) = (network.id.clone(), network.masquerade.clone());
            wanted.members.push(Member { network, pools, subnets, masquerade });
        }
        wanted
    }

    /// Whether our table, as it is listed, may be replaced: the rules of a network that is not known yet
    /// stay until it is, or until every network is known that there is.
    pub(super) fn may_replace(&self, listing: Option<&str>) -> bool {
        let mut named = listing.map(masquerade::networks).unwrap_or_default().into_iter();
        self.all_known || named.all(|named| self.members.iter().any(|member| member.network == named))
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Epoch, Masquerade, Network};

    use super::*;
    use crate::state::Held;
    use crate::testing::{network, peer};

    fn overview(name: &str, known: bool) -> (NetworkId, Box<Overview>) {
        let id: NetworkId = name.parse().unwrap();
        let mut overview = Overview::default();
        let network = Network { id: id.clone(), masquerade: Some(Masquerade::default()), ..network() };
        let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
        overview.applied.lease = known.then_some((held, network));
        (id, Box::new(overview))
    }

    #[test]
    fn rules_of_a_network_that_is_not_known_yet_stay() {
        let wanted = |blue| {
            let overviews = [overview("blue", blue), overview("red", true)];
            Wanted::of(overviews.iter().map(|(id, overview)| (id, &**overview)))
        };
        let both = masquerade::table(&wanted(true).members);
        assert!(wanted(true).all_known && wanted(true).may_replace(both.as_deref()));
        assert!(!wanted(false).may_replace(both.as_deref()));
        let red = masquerade::table(&wanted(false).members);
        assert!(wanted(false).may_replace(red.as_deref()) && wanted(false).may_replace(None));
    }
}
