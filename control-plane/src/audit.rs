//! Who was let in, who was not, and who has changed that: one line of the log each, of target `loden::audit`.
//!
//! Refusals are limited for each who is refused and for what: nobody can hide behind the noise of somebody else.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use loden_process::logging::AUDIT;
use loden_process::source::Source;
use loden_transport::SpiffeId;
use tonic::{Code, Status};
use tracing::field::display;
use tracing::{info, warn};

use crate::registry::{Link, Party};
use crate::service::access::Caller;

/// Refusals of one party and one kind that are written: at once, and then per second.
const OF_PARTY: [NonZeroU32; 2] = [NonZeroU32::new(20).unwrap(), NonZeroU32::new(1).unwrap()];
/// Refusals of all together who have shown nothing that is proven, per second.
const OF_STRANGERS: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Who has shown nothing.
pub(crate) const A_HOST: &str = "a host";

/// Writes security decisions.
#[derive(Debug)]
pub(crate) struct Audit {
    parties: DefaultKeyedRateLimiter<(Party, &'static str)>,
    strangers: DefaultDirectRateLimiter,
    /// Refusals that were not written since the last that was.
    left_out: AtomicU64,
}

impl Default for Audit {
    fn default() -> Self {
        let [at_once, per_second] = OF_PARTY;
        Self {
            parties: RateLimiter::keyed(Quota::per_second(per_second).allow_burst(at_once)),
            strangers: RateLimiter::direct(Quota::per_second(OF_STRANGERS)),
            left_out: AtomicU64::new(0),
        }
    }
}

impl Audit {
    /// Something has been done to something.
    pub(crate) fn done(&self, who: &dyn Display, from: Option<SocketAddr>, what: &str, to: &str) {
        let from = from.map(display);
        info!(target: AUDIT, %who, from, what, to, decision = "allowed");
    }

    /// Somebody is connected.
    pub(crate) fn let_in(&self, link: &Link) {
        info!(target: AUDIT, who = %link.client, from = %link.remote, what = "connect", decision = "allowed");
    }

    /// The other side of a connection may not do something.
    pub(crate) fn denied(&self, link: &Link, what: &'static str, reason: &str) {
        self.refuse(link.client.party(), &link.client, link.remote, what, "", reason);
    }

    /// Somebody who has proven nothing may not do something. `shown`: who it says that it is.
    pub(crate) fn turned_away(
        &self,
        from: SocketAddr,
        shown: Option<&SpiffeId>,
        what: &'static str,
        to: &str,
        reason: &str,
    ) {
        let party = Party::Source(Source::from(from.ip()));
        match shown {
            Some(id) => self.refuse(party, &format_args!("a host as {id}"), from, what, to, reason),
            None => self.refuse(party, &A_HOST, from, what, to, reason),
        }
    }

    /// What became of a call that changes something. That somebody may not call it has been written already.
    pub(crate) fn outcome<T>(
        &self,
        caller: &Caller,
        to: &str,
        result: Result<T, Status>,
    ) -> Result<T, Status> {
        let Caller { id, from, .. } = caller;
        let what = caller.rpc().method();
        match &result {
            Ok(_) => self.done(id, Some(*from), what, to),
            Err(status) if is_denial(status) => {}
            Err(status) => self.refuse(Party::Identity(id.clone()), id, *from, what, to, status.message()),
        }
        result
    }

    fn refuse(
        &self,
        party: Party,
        who: &dyn Display,
        from: SocketAddr,
        what: &'static str,
        to: &str,
        reason: &str,
    ) {
        let is_stranger = matches!(party, Party::Source(_));
        // First its own: what it has too much of is nobody else's.
        let is_left_out = self.parties.check_key(&(party, what)).is_err()
            || (is_stranger && self.strangers.check().is_err());
        if is_left_out {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        warn!(target: AUDIT, %who, %from, what, to, decision = "denied", reason, left_out);
    }

    /// Forgets those who were not refused for long.
    pub(crate) fn forget(&self) {
        self.parties.retain_recent();
    }
}

/// Whether it says that the caller may not call.
pub(crate) fn is_denial(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Client;
    use crate::registry::testing::client;
    use crate::service::access::Rpc;

    fn caller(id: &str, rpc: Rpc) -> Caller {
        let Client::Holder(holder) = client(id) else { panic!() };
        Caller::admit(&holder, &"loden".parse().unwrap(), rpc, "192.0.2.9:1".parse().unwrap()).unwrap()
    }

    fn left_out(audit: &Audit) -> u64 {
        audit.left_out.load(Ordering::Relaxed)
    }

    #[test]
    fn who_is_refused_without_end_hides_nobody_and_no_other_thing() {
        let audit = Audit::default();
        let from = |host: u8| SocketAddr::from(([192, 0, 2, host], 1));
        for _ in 0..60 {
            audit.turned_away(from(1), None, "Join", "", "no token");
        }
        assert!(left_out(&audit) >= 30, "{}", left_out(&audit));
        // What is written tells how many were not.
        audit.turned_away(from(1), None, "handshake", "", "no certificate");
        assert_eq!(left_out(&audit), 0);
        audit.turned_away(from(2), None, "Join", "", "no token");
        let ann = caller("admin/ann", Rpc::RevokeNode);
        let refused = audit.outcome::<()>(&ann, "nodes/a", Err(Status::not_found("nobody")));
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
        assert_eq!(left_out(&audit), 0);
    }

    #[test]
    fn strangers_from_everywhere_are_limited_together_and_leave_room_for_who_is_known() {
        let audit = Audit::default();
        for host in 0..=255 {
            audit.turned_away(SocketAddr::from(([192, 0, 2, host], 1)), None, "Join", "", "no token");
        }
        assert!(left_out(&audit) >= 100, "{}", left_out(&audit));
        let a = caller("node/a", Rpc::RenewCertificate);
        drop(audit.outcome::<()>(&a, "nodes/a", Err(Status::resource_exhausted("often"))));
        assert_eq!(left_out(&audit), 0);
    }
}
