//! Giving a lease back for the sake of its address.
//!
//! ```text
//!  TAKEN ─▶ the lease as it is known ─▶ is its address gone from this host? ─▶ given back
//!                                                                                  │
//!     the published address again ◀── not accepted for a while ◀── acquire(claim, the new address)
//! ```
//!
//! A lease keeps its address until it has another one. So two hosts that swap theirs wait for each other for ever, and
//! everybody else sends to the wrong one of them, unless one gives its lease back. The ledger keeps the subnets of such
//! a lease for its node for a while, and they are claimed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use loden_proto::model::Endpoint;
use loden_proto::reason::Reason;
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long an address has to be somebody else's: what moves from one interface to another is seen by then.
const LASTING: Duration = Duration::from_secs(2);
/// How long the new address is waited for without a lease. Whoever has it asks for ours every few seconds.
const WITHOUT: Duration = Duration::from_secs(15);
/// From one time to the next, twice as long each time.
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);

/// When to give the lease back, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct GiveBack {
    /// Since when the address is somebody else's.
    taken: Option<Instant>,
    tries: u32,
    /// Not again before this time.
    again: Option<Instant>,
    /// What was published until it was given back, and when that was.
    given: Option<(Instant, Endpoint)>,
}

impl GiveBack {
    /// Hears why an endpoint was refused; true when it is time to look at the lease.
    pub(crate) fn refused(&mut self, status: &Status, now: Instant) -> bool {
        if !(status.code() == Code::AlreadyExists && Reason::Taken.is_of(status)) {
            self.taken = None;
            return false;
        }
        let since = *self.taken.get_or_insert(now);
        if self.old(now).is_some() {
            // The published address has a new host as well.
            self.given = None;
        }
        now >= since + LASTING && self.again.is_none_or(|again| now >= again) && self.given.is_none()
    }

    /// It was tried to give back what has this endpoint.
    pub(crate) fn tried(&mut self, published: Option<Endpoint>, now: Instant) {
        let wait = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        self.again = Some(now + wait);
        self.given = published.map(|published| (now, Endpoint { receivers: Vec::new(), ..published }));
    }

    /// What to acquire the lease with: what is wanted, or when that was not to be had, what was published before.
    pub(crate) fn endpoint(&self, wanted: Endpoint, now: Instant) -> Endpoint {
        self.old(now).cloned().unwrap_or(wanted)
    }

    fn old(&self, now: Instant) -> Option<&Endpoint> {
        self.given.as_ref().filter(|(since, _)| now >= *since + WITHOUT).map(|(_, old)| old)
    }

    /// There is a lease again.
    pub(crate) fn acquired(&mut self) {
        self.given = None;
    }

    /// What is wanted is what is published.
    pub(crate) fn published(&mut self) {
        (self.taken, self.tries) = (None, 0);
    }
}

/// Whether a lease only keeps others from an address: all that is published is gone from this host, and what is wanted
/// is here. An address that is translated on its way never was here, and nothing is known of it.
pub(crate) fn is_in_the_way(published: &Endpoint, wanted: &Endpoint, host: &BTreeSet<IpAddr>) -> bool {
    let here = |address: IpAddr| host.contains(&address);
    published.addresses().next().is_some() && !published.addresses().any(here) && wanted.addresses().all(here)
}

#[cfg(test)]
mod tests {
    use loden_proto::reason::status;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoint(v4: &str, v6: Option<&str>) -> Endpoint {
        let v6 = v6.map(|v6| v6.parse().unwrap());
        Endpoint { v4: Some(v4.parse().unwrap()), v6, receivers: Vec::new() }
    }

    #[test]
    fn only_a_lease_all_of_whose_addresses_are_gone_is_in_the_way() {
        let (old, new) = (endpoint("192.0.2.11", None), endpoint("192.0.2.12", None));
        let host = |addresses: &[&str]| addresses.iter().map(|one| one.parse().unwrap()).collect();
        assert!(is_in_the_way(&old, &new, &host(&["192.0.2.12", "10.244.1.1"])));
        assert!(!is_in_the_way(&old, &new, &host(&["192.0.2.12", "192.0.2.11"])), "it is still here");
        assert!(!is_in_the_way(&old, &new, &host(&["10.0.0.5"])), "both are translated");
        assert!(!is_in_the_way(&old, &new, &host(&[])), "nothing is known of the host");
        let (old, new) =
            (endpoint("192.0.2.11", Some("2001:db8::1")), endpoint("192.0.2.12", Some("2001:db8::1")));
        assert!(!is_in_the_way(&old, &new, &host(&["192.0.2.12", "2001:db8::1"])), "one is still here");
    }

    #[test]
    fn a_lease_is_given_back_when_its_address_is_taken_for_good_and_seldom() {
        let taken = status(Code::AlreadyExists, Reason::Taken, "belongs to b");
        let other = status(Code::AlreadyExists, Reason::AnotherInstance, "streaming");
        let begin = Instant::now();
        let mut giving = GiveBack::default();
        assert!(!giving.refused(&other, begin) && !giving.refused(&taken, begin));
        assert!(giving.refused(&taken, begin + LASTING));
        assert!(!giving.refused(&other, begin + 3 * SECOND));
        assert!(!giving.refused(&taken, begin + 4 * SECOND), "it was something else meanwhile");
        // It lasts, and is tried in vain.
        let mut now = begin + 10 * SECOND;
        for wait in [FIRST, 2 * FIRST, 4 * FIRST] {
            assert!(giving.refused(&taken, now));
            giving.tried(None, now);
            assert!(!giving.refused(&taken, now + wait - SECOND));
            now += wait;
        }
        giving.published();
        assert!(!giving.refused(&taken, now) && giving.refused(&taken, now + LASTING));
        giving.tried(None, now);
        assert!(!giving.refused(&taken, now + FIRST - SECOND) && giving.refused(&taken, now + FIRST));
    }

    #[test]
    fn what_cannot_have_its_new_address_takes_the_old_one_again() {
        let taken = status(Code::AlreadyExists, Reason::Taken, "belongs to b");
        let (old, new) = (endpoint("192.0.2.11", None), endpoint("192.0.2.12", None));
        let begin = Instant::now();
        let mut giving = GiveBack::default();
        giving.tried(Some(old.clone()), begin);
        assert_eq!(giving.endpoint(new.clone(), begin + WITHOUT - SECOND), new);
        assert_eq!(giving.endpoint(new.clone(), begin + WITHOUT), old);
        // And when that is somebody's as well, only the new one is left.
        assert!(!giving.refused(&taken, begin + WITHOUT));
        assert_eq!(giving.endpoint(new.clone(), begin + WITHOUT), new);
        giving.tried(Some(old), begin);
        giving.acquired();
        assert_eq!(giving.endpoint(new.clone(), begin + WITHOUT), new);
    }
}
