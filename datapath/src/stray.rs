//! Entries that have the look of ours and that are not desired: a foreign hand has set them.
//!
//! ```text
//!  set, not desired ─▶ stray ── gone ──▶ forgotten
//!                        └─ still there after a moment ─▶ observe, and remove
//! ```
//!
//! What we set and take away again is announced like everybody's: each stray waits for its end.

use std::collections::BTreeSet;

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

/// The strays that have been announced and not been seen to go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Strays(BTreeSet<Entry>);

impl Strays {
    /// Takes a hint in, for a network with these pools. The cost does not grow with the tables.
    pub fn heed(&mut self, hint: &Hint, desired: &Tables, pools: &[Pool]) {
        let in_pools = |prefix| pools.iter().any(|pool| pool.cidr().contains(prefix));
        let on_ours = |device| desired.devices.contains_key(&device);
        let entry = match *hint {
            Hint::Address(key, _) if on_ours(key.device) && !desired.addresses.contains_key(&key) => {
                Entry::Address(key)
            }
            Hint::Fdb(key, entry) if on_ours(key.device) && desired.is_foreign(&key, &entry) => {
                Entry::Fdb(key)
            }
            Hint::Neighbour(key, Some(_))
                if on_ours(key.device) && !desired.neighbours.contains_key(&key) =>
            {
                Entry::Neighbour(key)
            }
            Hint::Route(key, Some(route))
                if (on_ours(route.device) || in_pools(&key.prefix)) && !desired.routes.contains_key(&key) =>
            {
                Entry::Route(key)
            }
            Hint::Blackhole(key) if in_pools(&key.prefix) && !desired.blackholes.contains_key(&key) => {
                Entry::Blackhole(key)
            }
            Hint::BlackholeGone(key) => return self.forget(Entry::Blackhole(key)),
            Hint::AddressGone(key) => return self.forget(Entry::Address(key)),
            Hint::FdbGone(key) => return self.forget(Entry::Fdb(key)),
            Hint::NeighbourGone(key) => return self.forget(Entry::Neighbour(key)),
            Hint::RouteGone(key) => return self.forget(Entry::Route(key)),
            _ => return,
        };
        self.0.insert(entry);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all: the tables have been looked at.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn forget(&mut self, entry: Entry) {
        self.0.remove(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::DeviceName;
    use crate::tables::Route;

    fn pools() -> Vec<Pool> {
        vec![Pool::new("10.244.0.0/16".parse().unwrap(), None).unwrap()]
    }

    fn route(prefix: &str) -> (RouteKey, Route) {
        let device: DeviceName = "eth0".parse().unwrap();
        let gateway = "192.0.2.9".parse().ok();
        (
            RouteKey { prefix: prefix.parse().unwrap(), metric: 7 },
            Route { device, gateway, onlink: true, mtu: None },
        )
    }

    #[test]
    fn what_is_set_and_not_desired_is_a_stray_until_it_goes() {
        let (key, route) = route("10.244.7.0/24");
        let mut strays = Strays::default();
        strays.heed(&Hint::Route(key, Some(route)), &Tables::default(), &pools());
        assert!(!strays.is_empty());
        strays.heed(&Hint::RouteGone(RouteKey { metric: 8, ..key }), &Tables::default(), &pools());
        assert!(!strays.is_empty(), "another one went");
        strays.heed(&Hint::RouteGone(key), &Tables::default(), &pools());
        assert!(strays.is_empty());
    }

    #[test]
    fn what_is_desired_or_another_networks_is_none() {
        let (key, ours) = route("10.244.7.0/24");
        let desired = Tables { routes: [(key, ours)].into(), ..Tables::default() };
        let mut strays = Strays::default();
        strays.heed(&Hint::Route(key, Some(ours)), &desired, &pools());
        let (other, theirs) = route("10.9.7.0/24");
        strays.heed(&Hint::Route(other, Some(theirs)), &desired, &pools());
        let key = FdbKey { device: "loden2a".parse().unwrap(), mac: [2, 0, 0, 0, 0, 1] };
        strays.heed(&Hint::FdbGone(key), &desired, &pools());
        assert!(strays.is_empty());
    }
}
