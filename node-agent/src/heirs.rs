//! Which networks of this agent have ended, though nobody said so: another one has what was theirs.
//!
//! ```text
//!  blue:  10.8.0.0/16, VNI 8, not found ──┐
//!                                         ├─▶ blue has ended: its heir is green
//!  green: 10.8.0.0/16, VNI 9, confirmed ──┘
//! ```
//!
//! A network that the control plane does not know may have been deleted, or the store was lost: so it stays in the
//! kernel. But two networks of a cluster never have overlapping pools or one VNI. Once another network with those is
//! confirmed, no store has this one any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use loden_datapath::Tables;
use loden_proto::model::{Network, Pool, Vni};
use loden_proto::names::NetworkId;
use tokio::sync::watch;

/// What the server has said of a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Said {
    /// Nothing that would count.
    Nothing,
    /// That it does not know it.
    NotFound,
    /// That we have our lease.
    Leased,
    /// More than that: the whole set of peers, and it is not adopting.
    Whole,
}

/// What a network of this agent takes up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claim {
    pub(crate) pools: Vec<Pool>,
    pub(crate) vni: Vni,
    pub(crate) said: Said,
    /// It is in the kernel, or may be.
    pub(crate) programmed: bool,
}

/// All networks of this agent that have a lease, confirmed or not.
pub(crate) type Claims = BTreeMap<NetworkId, Claim>;

impl Claim {
    pub(crate) fn of(network: &Network, said: Said, programmed: bool) -> Self {
        Self { pools: network.pools.clone(), vni: network.vni, said, programmed }
    }

    const fn is_leased(&self) -> bool {
        matches!(self.said, Said::Leased | Said::Whole)
    }

    /// What of this one's another has too, in words.
    fn shares(&self, other: &Self) -> Option<String> {
        let is_shared = |pool: &&Pool| other.pools.iter().any(|theirs| pool.overlaps(theirs.cidr()));
        match self.pools.iter().find(is_shared) {
            Some(pool) => Some(format!("its pool {}", pool.cidr())),
            None => (self.vni == other.vni).then(|| format!("its VNI {}", self.vni)),
        }
    }
}

/// Why a network has ended: who has what was its own.
pub(crate) fn ended(id: &NetworkId, claims: &Claims) -> Option<String> {
    let own = claims.get(id).filter(|own| own.said == Said::NotFound)?;
    others(id, claims).filter(|(_, other)| other.said == Said::Whole).find_map(|(heir, other)| {
        let what = own.shares(other)?;
        Some(format!("{what} belongs to the network {heir} now; nothing is programmed"))
    })
}

/// Why a network has to wait: what is its own is still programmed for another one, which has not ended yet.
pub(crate) fn waits(id: &NetworkId, claims: &Claims) -> Option<String> {
    let own = claims.get(id)?;
    others(id, claims).filter(|(_, other)| other.programmed && !other.is_leased()).find_map(
        |(holder, other)| {
            let what = own.shares(other)?;
            Some(format!("{what} is still programmed for the network {holder}, which is not confirmed"))
        },
    )
}

fn others<'a>(id: &'a NetworkId, claims: &'a Claims) -> impl Iterator<Item = (&'a NetworkId, &'a Claim)> {
    claims.iter().filter(move |(other, _)| *other != id)
}

/// What an ended network still has in the kernel, of all that is seen of it: what is not over its own devices and
/// lies in a pool of a confirmed network is that one's to keep or to remove.
pub(crate) fn remains(id: &NetworkId, claims: &Claims, mut seen: Tables) -> Tables {
    let heirs = others(id, claims).filter(|(_, other)| other.said == Said::Whole);
    let pools: Vec<_> = heirs.flat_map(|(_, other)| &other.pools).map(Pool::cidr).collect();
    let inherited = |prefix: &IpNet| pools.iter().any(|pool| pool.contains(prefix));
    let devices = &seen.devices;
    seen.routes.retain(|key, route| devices.contains_key(&route.device) || !inherited(&key.prefix));
    seen.blackholes.retain(|key, ()| !inherited(&key.prefix));
    seen.rivals.retain(|rival, ()| !inherited(&rival.key.prefix));
    seen
}

/// The pools of all networks of this host, once all others are known whole: where a route of ours leads elsewhere, its
/// network has lost that pool while nobody was looking.
fn all_pools(
    id: &NetworkId,
    claims: &Claims,
    served: &BTreeSet<NetworkId>,
    left: &[IpNet],
) -> Option<Vec<IpNet>> {
    let is_known = |network: &NetworkId| {
        network == id || claims.get(network).is_some_and(|claim| claim.said == Said::Whole)
    };
    let pools = claims.values().flat_map(|claim| &claim.pools).map(Pool::cidr);
    served.iter().all(is_known).then(|| pools.chain(left.iter().copied()).collect())
}

/// What the networks of one agent tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Siblings {
    own: NetworkId,
    household: Arc<Household>,
    told: watch::Sender<Claims>,
    heard: watch::Receiver<Claims>,
}

/// The networks of this host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Household {
    /// Those of the agent.
    pub(crate) served: BTreeSet<NetworkId>,
    /// Pools of those that it was part of and is not any more. What is left of them forwards for pods that may still
    /// be there.
    pub(crate) left: Vec<IpNet>,
}

impl Siblings {
    /// The place of a network among all that share `told`.
    pub(crate) fn new(own: NetworkId, household: Arc<Household>, told: &watch::Sender<Claims>) -> Self {
        Self { own, household, heard: told.subscribe(), told: told.clone() }
    }

    /// The pools of all networks of this host, once all but the own one are known whole.
    pub(crate) fn all_pools(&self) -> Option<Vec<IpNet>> {
        let Household { served, left } = self.household.as_ref();
        all_pools(&self.own, &self.heard.borrow(), served, left)
    }

    /// The pools of the networks of this host, as far as they are known.
    pub(crate) fn known_pools(&self) -> Vec<IpNet> {
        let claims = self.heard.borrow();
        let pools = claims.values().flat_map(|claim| &claim.pools).map(Pool::cidr);
        pools.chain(self.household.left.iter().copied()).collect()
    }

    /// Tells what the own network takes up; nothing without a lease.
    pub(crate) fn tell(&self, claim: Option<Claim>) {
        self.told.send_if_modified(|claims| {
            let before = claims.get(&self.own);
            if before == claim.as_ref() {
                return false;
            }
            match claim {
                Some(claim) => drop(claims.insert(self.own.clone(), claim)),
                None => drop(claims.remove(&self.own)),
            }
            true
        });
    }

    /// Waits until somebody has told something. The sender is ours as well: it does not close.
    pub(crate) async fn changed(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }

    pub(crate) fn ended(&self) -> Option<String> {
        ended(&self.own, &self.heard.borrow())
    }

    pub(crate) fn waits(&self) -> Option<String> {
        waits(&self.own, &self.heard.borrow())
    }

    pub(crate) fn remains(&self, seen: Tables) -> Tables {
        remains(&self.own, &self.heard.borrow(), seen)
    }
}

#[cfg(test)]
mod tests {
    use loden_datapath::tables::{Route, RouteKey};

    use super::*;
    use crate::testing::network;

    fn id(name: &str) -> NetworkId {
        name.parse().unwrap()
    }

    fn claim(pool: &str, vni: u32, said: Said) -> Claim {
        let pools = vec![Pool::new(pool.parse().unwrap(), None).unwrap()];
        let network = Network { pools, vni: Vni::try_from(vni).unwrap(), ..network() };
        Claim::of(&network, said, true)
    }

    fn claims(blue: Claim, green: Claim) -> Claims {
        Claims::from([(id("blue"), blue), (id("green"), green)])
    }

    #[test]
    fn a_network_ends_when_a_confirmed_one_has_its_pool_or_its_vni() {
        let blue = claim("10.8.0.0/16", 8, Said::NotFound);
        let part = claims(blue.clone(), claim("10.8.128.0/17", 9, Said::Whole));
        let told = "its pool 10.8.0.0/16 belongs to the network green now; nothing is programmed";
        assert_eq!(ended(&id("blue"), &part).unwrap(), told);
        assert_eq!(ended(&id("green"), &part), None);
        let vni = claims(blue.clone(), claim("10.9.0.0/16", 8, Said::Whole));
        let told = "its VNI 8 belongs to the network green now; nothing is programmed";
        assert_eq!(ended(&id("blue"), &vni).unwrap(), told);
        let apart = claims(blue, claim("10.9.0.0/16", 9, Said::Whole));
        assert_eq!(ended(&id("blue"), &apart), None);
        assert_eq!(ended(&id("red"), &apart), None, "without a lease there is nothing to end");
    }

    #[test]
    fn no_network_ends_before_the_server_is_sure_of_the_other() {
        let blue = claim("10.8.0.0/16", 8, Said::NotFound);
        for said in [Said::Nothing, Said::NotFound, Said::Leased] {
            let both = claims(blue.clone(), claim("10.8.0.0/16", 8, said));
            assert_eq!(ended(&id("blue"), &both), None, "it adopts, or is away");
        }
        // The pool may have moved from one to the other; or what was heard of the other is old.
        for said in [Said::Nothing, Said::Leased, Said::Whole] {
            let both = claims(claim("10.8.0.0/16", 8, said), claim("10.8.0.0/16", 9, Said::Whole));
            assert_eq!(ended(&id("blue"), &both), None, "nobody says that it is gone");
        }
    }

    #[test]
    fn who_comes_waits_until_what_was_before_has_ended() {
        let mut both = claims(claim("10.8.0.0/16", 8, Said::NotFound), claim("10.8.0.0/16", 9, Said::Leased));
        let told = "its pool 10.8.0.0/16 is still programmed for the network blue, which is not confirmed";
        assert_eq!(waits(&id("green"), &both).unwrap(), told);
        assert_eq!(waits(&id("blue"), &both), None, "a network that is leased is in nobody's way");
        both.get_mut(&id("blue")).unwrap().programmed = false;
        assert_eq!(waits(&id("green"), &both), None);
        let apart = claims(claim("10.8.0.0/16", 8, Said::NotFound), claim("10.9.0.0/16", 9, Said::Whole));
        assert_eq!(waits(&id("green"), &apart), None);
    }

    #[test]
    fn all_pools_are_known_when_every_other_network_is_whole() {
        let served = BTreeSet::from([id("blue"), id("green")]);
        let left = ["10.7.0.0/16".parse().unwrap()];
        let mut both = claims(claim("10.8.0.0/16", 8, Said::Leased), claim("10.9.0.0/16", 9, Said::Leased));
        assert_eq!(all_pools(&id("blue"), &both, &served, &left), None);
        both.get_mut(&id("green")).unwrap().said = Said::Whole;
        let all = ["10.8.0.0/16", "10.9.0.0/16", "10.7.0.0/16"].map(|pool| pool.parse().unwrap());
        assert_eq!(all_pools(&id("blue"), &both, &served, &left).unwrap(), all);
        both.remove(&id("green"));
        assert_eq!(all_pools(&id("blue"), &both, &served, &left), None, "it has no lease yet");
    }

    #[test]
    fn of_an_ended_network_nothing_is_removed_that_may_be_its_heirs() {
        let both = claims(claim("10.8.0.0/16", 8, Said::NotFound), claim("10.8.0.0/17", 9, Said::Whole));
        let key = |prefix: &str| RouteKey { prefix: prefix.parse().unwrap(), metric: 7 };
        let over = |device: &str| Route {
            device: device.parse().unwrap(),
            gateway: "192.0.2.9".parse().ok(),
            onlink: false,
            mtu: None,
        };
        let mut seen = Tables::default();
        seen.routes.insert(key("10.8.1.0/24"), over("eth0"));
        seen.routes.insert(key("10.8.200.0/24"), over("eth0"));
        seen.blackholes.insert(key("10.8.2.0/24"), ());
        seen.blackholes.insert(key("10.8.201.0/24"), ());
        let remains = remains(&id("blue"), &both, seen);
        assert_eq!(remains.routes.keys().collect::<Vec<_>>(), [&key("10.8.200.0/24")]);
        assert_eq!(remains.blackholes.keys().collect::<Vec<_>>(), [&key("10.8.201.0/24")]);
    }
}
