//! What the networks of the agent want of the packet filter: pure.

use std::ops::Deref;

use loden_datapath::firewall::{Member, Traffic, masquerade};
use loden_proto::model::Pool;
use loden_proto::names::NetworkId;

use crate::status::Overview;

/// What is wanted, as far as it is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wanted {
    /// The networks that are known, and those that were when our table was put in place.
    pub(super) members: Vec<Member>,
    /// What has to pass the host for them.
    pub(super) traffic: Vec<Traffic>,
    /// Whether every network of the agent is known.
    pub(super) all_known: bool,
}

impl Wanted {
    /// `noted`: for whom our table was last put in place. A network that is not known yet is taken to be as
    /// it was then, so that the order in which networks become known writes nothing.
    pub(super) fn of<'a>(
        overviews: impl IntoIterator<Item = (&'a NetworkId, impl Deref<Target = Overview>)>,
        noted: &[Member],
    ) -> Self {
        let mut wanted = Self { all_known: true, ..Self::default() };
        for (id, overview) in overviews {
            let applied = &overview.applied;
            if applied.ended.is_some() {
                continue;
            }
            let Some((held, network)) = &applied.lease else {
                wanted.all_known = false;
                wanted.members.extend(noted.iter().find(|member| member.network == *id).cloned());
                continue;
            };
            let pools: Vec<_> = network.pools.iter().map(Pool::cidr).collect();
            let subnets: Vec<_> = held.subnets.iter().collect();
            if !applied.devices.links.is_empty() {
                let families = || applied.devices.families.clone();
                let tunnel = network.backend.port().map(|port| (port.get(), families()));
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

    /// What is known of the networks of an agent, by name. Those in capitals masquerade.
    fn wanted(all: &[&str], known: &[&str], noted: &[Member]) -> Wanted {
        let overviews: Vec<(NetworkId, Box<Overview>)> = all
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let id: NetworkId = name.to_lowercase().parse().unwrap();
                let masquerade = (name.to_uppercase() == **name).then(Masquerade::default);
                let pool = Pool::new(format!("10.{number}.0.0/16").parse().unwrap(), None).unwrap();
                let network = Network { id: id.clone(), masquerade, pools: vec![pool], ..network() };
                let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
                let mut overview = Box::<Overview>::default();
                overview.applied.lease = known.contains(name).then_some((held, network));
                (id, overview)
            })
            .collect();
        Wanted::of(overviews.iter().map(|(id, overview)| (id, &**overview)), noted)
    }

    #[test]
    fn rules_of_a_network_that_is_not_known_yet_stay() {
        let wanted = |known: &[&str]| wanted(&["BLUE", "RED"], known, &[]);
        let (both, red) = (wanted(&["BLUE", "RED"]), wanted(&["RED"]));
        let table = masquerade::table(&both.members);
        assert!(both.all_known && both.may_replace(table.as_deref()));
        assert!(!red.all_known && !red.may_replace(table.as_deref()));
        let table = masquerade::table(&red.members);
        assert!(red.may_replace(table.as_deref()) && red.may_replace(None));
    }

    #[test]
    fn whichever_network_is_known_first_the_table_is_as_it_was() {
        for all in [["BLUE", "RED"], ["blue", "RED"], ["BLUE", "red"], ["blue", "red"]] {
            let before = wanted(&all, &all, &[]).members;
            for known in [&all[..0], &all[..1], &all[1..], &all[..]] {
                let after = wanted(&all, known, &before);
                assert_eq!(after.members, before, "{known:?} of {all:?}");
                assert_eq!(after.all_known, known.len() == 2);
            }
        }
    }

    #[test]
    fn what_was_noted_holds_for_networks_of_this_agent_that_are_not_known_only() {
        let before = wanted(&["blue", "RED"], &["blue", "RED"], &[]).members;
        let changed = wanted(&["BLUE", "RED"], &["BLUE"], &before);
        assert_eq!(changed.members, wanted(&["BLUE", "RED"], &["BLUE", "RED"], &[]).members);
        let fewer = wanted(&["blue"], &[], &before);
        assert_eq!(fewer.members, before[..1]);
    }
}
