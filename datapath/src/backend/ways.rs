//! Which addresses this host has a route to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::{Family, Subnets};

use crate::facts::{HostFacts, HostRoute};
use crate::prefixes::Prefixes;

/// A host's routes as far as they tell whether packets to an address leave at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ways {
    /// Of prefixes whose answer is not that of the prefix around them.
    answers: Prefixes<bool>,
    /// Families in which rules choose other tables than the main one.
    unknown: Vec<Family>,
}

impl Ways {
    /// Reads them from a host's routes, over whichever device: a tunnel's forwarding entries name none. A route into a
    /// tunnel of ours or over the loopback device leads nowhere. Those below our own subnets are our pods', and come and go.
    #[must_use]
    pub fn of(facts: &HostFacts, own: &Subnets) -> Self {
        let concerns = |prefix: &IpNet| !own.iter().any(|subnet| subnet.contains(prefix));
        let ends = facts.interfaces.iter().filter(|nic| nic.ours || nic.loopback);
        let ends: BTreeSet<_> = ends.map(|nic| nic.name).collect();
        let leads =
            |route: &HostRoute| !route.drops && route.device.is_none_or(|device| !ends.contains(&device));
        let routes = facts.routes.iter().filter(|route| concerns(&route.prefix));
        let mut routes: Vec<_> =
            routes.map(|route| (route.prefix.trunc(), route.metric, leads(route))).collect();
        // What is sent to an address of this host does not leave it.
        let own = facts.interfaces.iter().flat_map(|nic| &nic.addresses).map(|address| address.net.addr());
        routes.extend(own.map(IpNet::from).filter(concerns).map(|address| (address, 0, false)));
        routes.sort_unstable();
        // The best metric is the first.
        routes.dedup_by_key(|(prefix, ..)| *prefix);
        let mut around: Vec<(IpNet, bool)> = Vec::new();
        let mut answers = Prefixes::default();
        for (prefix, _, leads) in routes {
            while around.pop_if(|(outer, _)| !outer.contains(&prefix)).is_some() {}
            if leads != around.last().is_some_and(|(_, leads)| *leads) {
                answers.insert(prefix, leads);
            }
            around.push((prefix, leads));
        }
        Self { answers, unknown: facts.ruled.clone() }
    }

    /// To everywhere, for all that is known.
    #[must_use]
    pub fn anywhere() -> Self {
        Self { answers: Prefixes::default(), unknown: vec![Family::V4, Family::V6] }
    }

    /// Whether a route leads to an address.
    #[must_use]
    pub fn lead_to(&self, address: IpAddr) -> bool {
        self.unknown.contains(&Family::of(address))
            || self.answers.lookup(address).is_some_and(|leads| *leads)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Interface, InterfaceAddress};
    use crate::name::DeviceName;

    fn device(name: &str) -> DeviceName {
        name.parse().unwrap()
    }

    fn route(prefix: &str, over: Option<&str>, metric: u32) -> HostRoute {
        let drops = over.is_none();
        HostRoute { prefix: prefix.parse().unwrap(), device: over.map(device), gateway: None, metric, drops }
    }

    fn ways(routes: Vec<HostRoute>) -> Ways {
        let own = Subnets::new(["10.244.1.0/24".parse().unwrap()]).unwrap();
        let address = InterfaceAddress::lasting("203.0.113.200/24".parse().unwrap());
        let tunnel =
            Interface { ours: true, addresses: vec![address], ..Interface::ethernet(9, device("loden1a")) };
        let loopback = Interface { loopback: true, ..Interface::ethernet(1, device("lo")) };
        let interfaces = vec![tunnel, loopback];
        Ways::of(&HostFacts { routes, interfaces, ..HostFacts::default() }, &own)
    }

    fn lead_to(ways: &Ways, address: &str) -> bool {
        ways.lead_to(address.parse().unwrap())
    }

    #[test]
    fn a_way_leads_out_and_is_not_barred() {
        let own = route("10.244.1.8/29", Some("eth0"), 0);
        let ways = ways(vec![
            route("192.0.2.0/24", Some("eth0"), 0),
            route("198.51.100.0/24", Some("eth1"), 0),
            route("198.51.100.64/26", Some("loden1a"), 0),
            route("198.51.100.192/26", Some("lo"), 0),
            route("203.0.113.0/24", Some("eth0"), 5),
            route("203.0.113.0/24", None, 9),
            route("203.0.113.64/26", None, 0),
            route("203.0.113.65/32", Some("eth0"), 0),
            own,
        ]);
        for (address, leads) in [
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("198.51.100.1", true),
            ("198.51.100.65", false),
            ("198.51.100.193", false),
            ("203.0.113.1", true),
            ("203.0.113.64", false),
            ("203.0.113.65", true),
            ("203.0.113.128", true),
            ("203.0.113.200", false),
            ("10.244.1.9", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(lead_to(&ways, address), leads, "{address}");
        }
    }

    /// So routes that come and go below it are no news.
    #[test]
    fn a_default_route_stands_for_all_that_lead_the_same_way() {
        let whole = vec![route("0.0.0.0/0", Some("eth0"), 100), route("192.0.2.0/24", Some("eth0"), 0)];
        assert_eq!(ways(whole.clone()), ways(whole[..1].to_vec()));
        assert!(lead_to(&ways(whole), "8.8.8.8"));
    }

    #[test]
    fn where_rules_choose_tables_nothing_is_said_of_their_family() {
        let own = Subnets::new(["10.244.1.0/24".parse().unwrap()]).unwrap();
        let facts = HostFacts { ruled: vec![Family::V6], ..HostFacts::default() };
        let ways = Ways::of(&facts, &own);
        assert!(lead_to(&ways, "2001:db8::1") && !lead_to(&ways, "192.0.2.1"));
    }

    proptest! {
        #[test]
        fn it_answers_as_the_longest_of_all_routes(
            routes in prop::collection::vec((any::<u8>(), 24_u8..=32, 0_u32..3, 0_u8..3), 0..30),
            last: u8,
        ) {
            let routes: Vec<_> = routes.into_iter().map(|(octet, length, metric, kind)| {
                let over = [Some("eth0"), Some("loden1a"), None][usize::from(kind)];
                route(&format!("192.0.2.{octet}/{length}"), over, metric)
            }).map(|route| HostRoute { prefix: route.prefix.trunc(), ..route }).collect();
            let address: IpAddr = [192, 0, 2, last].into();
            let leads = |route: &HostRoute| route.device == Some(device("eth0"));
            let best = routes.iter().filter(|route| route.prefix.contains(&address))
                .min_by_key(|route| (std::cmp::Reverse(route.prefix.prefix_len()), route.metric));
            let expected = best.is_some_and(leads);
            let ways = ways(routes.clone());
            // Of two to one place the kernel has one only.
            let unclear = routes.iter().any(|a| routes.iter().any(|b|
                (a.prefix, a.metric) == (b.prefix, b.metric) && leads(a) != leads(b)));
            prop_assert!(unclear || ways.lead_to(address) == expected);
        }
    }
}
