//! What the kernel has been heard to hold otherwise than desired: because a foreign hand has changed it, or because what
//! we have changed ourselves is still being read.
//!
//! ```text
//!  lost or altered, or a stray ─▶ adrift ── as desired again ──▶ forgotten
//!                                   └─ nothing better heard after a moment ─▶ observe, and put right
//! ```
//!
//! A stray has the look of ours and is not desired. Our own writes are announced like everybody's, and read when the
//! next ones are made already: the last word about an entry counts.

use std::collections::BTreeMap;
use std::time::Instant;

use loden_proto::model::Pool;

use crate::hint::Hint;
use crate::tables::{AddressKey, FdbKey, NeighbourKey, RouteKey, Tables};

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Entry {
    Address(AddressKey),
    Fdb(FdbKey),
    Neighbour(NeighbourKey),
    Route(RouteKey),
    Blackhole(RouteKey),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Adrift {
    since: Instant,
    /// Strays of this key: there may be several routes, and remotes of one MAC address.
    strays: u32,
}

/// The entries that are adrift.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drift {
    entries: BTreeMap<Entry, Adrift>,
    /// The first hint that no word about a single entry answers.
    lasting: Option<Instant>,
}

impl Drift {
    /// Takes a hint in, for a network with these pools. The cost does not grow with the tables.
    pub fn heed(&mut self, hint: &Hint, desired: &Tables, pools: &[Pool], now: Instant) {
        let concerns = hint.concerns(desired);
        let Some(entry) = entry(hint, desired) else {
            if concerns {
                self.lasting.get_or_insert(now);
            }
            return;
        };
        let strays = self.entries.get(&entry).map_or(0, |adrift| adrift.strays);
        let is_stray = is_stray(hint, desired, pools);
        let strays = match entry {
            Entry::Route(_) | Entry::Fdb(_) if is_stray => strays + 1,
            _ if is_end(hint) => strays.saturating_sub(1),
            _ => strays,
        };
        if concerns || is_stray || strays > 0 {
            self.entries.entry(entry).or_insert(Adrift { since: now, strays }).strays = strays;
        } else {
            self.entries.remove(&entry);
        }
    }

    /// Since when something is adrift. The cost grows with what is.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.entries.values().map(|adrift| adrift.since).chain(self.lasting).min()
    }

    /// Forgets all: the tables have been looked at.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether an entry, or one of several with its key, is gone.
const fn is_end(hint: &Hint) -> bool {
    matches!(hint, Hint::RouteGone(_) | Hint::FdbGone(_))
}

/// What a hint has the last word about. That is not what takes others along or comes in their place, of which nothing is
/// told: an address of ours, and a route that drops where one of ours leads, or the other way round. Nor is it a route
/// that differs from ours, which may be beside it.
fn entry(hint: &Hint, desired: &Tables) -> Option<Entry> {
    match *hint {
        Hint::Address(key, _) | Hint::AddressGone(key) if !desired.addresses.contains_key(&key) => {
            Some(Entry::Address(key))
        }
        Hint::Fdb(key, _) | Hint::FdbGone(key) => Some(Entry::Fdb(key)),
        Hint::Neighbour(key, _) | Hint::NeighbourGone(key) => Some(Entry::Neighbour(key)),
        Hint::Route(key, Some(route)) => {
            let is_ours = desired.routes.get(&key).is_none_or(|wanted| *wanted == route);
            (is_ours && !desired.blackholes.contains_key(&key)).then_some(Entry::Route(key))
        }
        Hint::RouteGone(key) if !desired.blackholes.contains_key(&key) => Some(Entry::Route(key)),
        Hint::Blackhole(key) | Hint::BlackholeGone(key) if !desired.routes.contains_key(&key) => {
            Some(Entry::Blackhole(key))
        }
        _ => None,
    }
}

fn is_stray(hint: &Hint, desired: &Tables, pools: &[Pool]) -> bool {
    let in_pools = |prefix| pools.iter().any(|pool| pool.cidr().contains(prefix));
    let on_ours = |device| desired.devices.contains_key(device);
    match hint {
        Hint::Address(key, _) => on_ours(&key.device) && !desired.addresses.contains_key(key),
        Hint::Fdb(key, entry) => on_ours(&key.device) && desired.is_foreign(key, entry),
        Hint::Neighbour(key, Some(_)) => on_ours(&key.device) && !desired.neighbours.contains_key(key),
        Hint::Route(key, Some(route)) => {
            (on_ours(&route.device) || in_pools(&key.prefix)) && !desired.routes.contains_key(key)
        }
        Hint::Blackhole(key) => in_pools(&key.prefix) && !desired.blackholes.contains_key(key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Lifetime, Route};

    fn key(prefix: &str) -> RouteKey {
        RouteKey { prefix: prefix.parse().unwrap(), metric: 7 }
    }

    fn route() -> Route {
        let gateway = "192.0.2.9".parse().ok();
        Route { device: "eth0".parse().unwrap(), gateway, onlink: true, mtu: None }
    }

    /// One route, and one that drops.
    fn desired() -> Tables {
        let (routes, blackholes) = ([(key("10.244.7.0/24"), route())], [(key("10.244.1.0/24"), ())]);
        Tables { routes: routes.into(), blackholes: blackholes.into(), ..Tables::default() }
    }

    fn after(hints: &[Hint], desired: &Tables) -> Drift {
        let pools = [Pool::new("10.244.0.0/16".parse().unwrap(), None).unwrap()];
        let mut drift = Drift::default();
        hints.iter().for_each(|hint| drift.heed(hint, desired, &pools, Instant::now()));
        drift
    }

    fn is_adrift(hints: &[Hint], desired: &Tables) -> bool {
        after(hints, desired).since().is_some()
    }

    #[test]
    fn what_was_set_again_before_its_end_was_read_is_not_adrift() {
        let key = key("10.244.7.0/24");
        let (gone, back) = (Hint::RouteGone(key), Hint::Route(key, Some(route())));
        assert!(is_adrift(std::slice::from_ref(&gone), &desired()));
        assert!(!is_adrift(&[gone.clone(), back.clone()], &desired()));
        assert!(is_adrift(&[back, gone], &desired()));
    }

    #[test]
    fn what_is_desired_no_more_is_not_adrift() {
        let key = key("10.244.7.0/24");
        let mut drift = after(&[Hint::RouteGone(key)], &desired());
        drift.heed(&Hint::RouteGone(key), &Tables::default(), &[], Instant::now());
        assert_eq!(drift.since(), None);
    }

    #[test]
    fn what_may_be_beside_ours_or_has_replaced_it_stays_adrift() {
        let (key, dropped) = (key("10.244.7.0/24"), key("10.244.1.0/24"));
        let back = Hint::Route(key, Some(route()));
        let other = Route { gateway: "192.0.2.8".parse().ok(), ..route() };
        for rival in [Hint::Route(key, None), Hint::Route(key, Some(other)), Hint::Overrun] {
            assert!(is_adrift(&[rival, Hint::RouteGone(key), back.clone()], &desired()));
        }
        assert!(is_adrift(&[Hint::Blackhole(key), Hint::BlackholeGone(key)], &desired()));
        assert!(is_adrift(&[Hint::Route(dropped, Some(route())), Hint::RouteGone(dropped)], &desired()));
        let (device, address) = ("loden1a".parse().unwrap(), "10.244.1.0/32".parse().unwrap());
        let (address, lifetime) = (AddressKey::new(device, address), Lifetime::Infinite);
        let desired = Tables { addresses: [(address, lifetime)].into(), ..desired() };
        assert!(is_adrift(&[Hint::AddressGone(address), Hint::Address(address, lifetime)], &desired));
    }

    #[test]
    fn what_is_set_and_not_desired_is_a_stray_until_it_goes() {
        let key = key("10.244.8.0/24");
        let stray = Hint::Route(key, Some(route()));
        assert!(is_adrift(std::slice::from_ref(&stray), &desired()));
        let other = Hint::RouteGone(RouteKey { metric: 8, ..key });
        assert!(is_adrift(&[stray.clone(), other], &desired()), "another one went");
        assert!(!is_adrift(&[stray, Hint::RouteGone(key)], &desired()));
    }

    #[test]
    fn of_several_strays_of_one_key_each_has_its_end() {
        let key = key("10.244.8.0/24");
        let (stray, gone) = (Hint::Route(key, Some(route())), Hint::RouteGone(key));
        assert!(is_adrift(&[stray.clone(), stray.clone(), gone.clone()], &desired()));
        assert!(!is_adrift(&[stray.clone(), stray.clone(), gone.clone(), gone], &desired()));
        // What is desired now may be beside it.
        let mut drift = after(std::slice::from_ref(&stray), &desired());
        let desired = Tables { routes: [(key, route())].into(), ..Tables::default() };
        drift.heed(&stray, &desired, &[], Instant::now());
        assert!(drift.since().is_some());
    }

    /// As a peer that went, came and went again, and only then is read.
    #[test]
    fn changes_that_are_read_late_are_not_adrift() {
        let key = key("10.244.7.0/24");
        let mut drift = after(&[Hint::RouteGone(key)], &desired());
        let pools = [Pool::new("10.244.0.0/16".parse().unwrap(), None).unwrap()];
        for hint in [Hint::Route(key, Some(route())), Hint::RouteGone(key)] {
            drift.heed(&hint, &Tables::default(), &pools, Instant::now());
        }
        assert_eq!(drift.since(), None);
    }

    #[test]
    fn what_is_desired_or_another_networks_is_no_stray() {
        let ours = Hint::Route(key("10.244.7.0/24"), Some(route()));
        let theirs = Hint::Route(key("10.9.7.0/24"), Some(route()));
        let mac = [2, 0, 0, 0, 0, 1];
        let fdb = Hint::FdbGone(FdbKey { device: "loden2a".parse().unwrap(), mac });
        assert!(!is_adrift(&[ours, theirs, fdb], &desired()));
    }

    #[test]
    fn the_oldest_counts() {
        let mut drift = after(&[Hint::RouteGone(key("10.244.7.0/24"))], &desired());
        let first = drift.since();
        drift.heed(&Hint::Overrun, &desired(), &[], Instant::now());
        assert_eq!(drift.since(), first);
        drift.clear();
        assert_eq!(drift.since(), None);
    }
}
