//! Whether an agent that wants a lease is a copy of one that another replica has: what `Streams` knows of those here.
//!
//! ```text
//!  AcquireLease ─┬─ by the instance that has the lease, with the endpoint that it has ─▶ nobody is asked
//!                └─ by another one, or from elsewhere ─▶ the others ─┬─ the holder streams there ─▶ a copy: refused
//!                                                                    └─ it does not, or nobody knows ─▶ goes on
//! ```
//!
//! So agents that come back after the end of a replica wait for nobody, least of all for the one that has ended.
//! About a node the others are asked once at a time; whoever calls meanwhile is told to come back (`inquiries.rs`).

use loden_proto::model::{BootId, Endpoint, InstanceId, LeaseName};
use tonic::Status;

use super::Shared;
use super::refusal::{asked_already, elsewhere, refused};
use crate::colleagues::Watch;
use crate::ledger::{Lease, LeaseState, Refusal};
use crate::watch::Elsewhere;

impl Shared {
    /// Whether an agent is the only one of its node, as far as the other replicas know.
    ///
    /// # Errors
    /// ALREADY_EXISTS when the one that has the lease is connected with another replica; UNAVAILABLE while the others
    /// are being asked about the node already: as many questions as somebody likes would keep all replicas busy.
    pub(super) async fn is_no_copy(
        &self,
        name: &LeaseName,
        instance: InstanceId,
        boot: Option<BootId>,
        endpoint: &Endpoint,
    ) -> Result<(), Status> {
        let lease = self.clerk.read(|ledger| ledger.lease(name));
        let Some(lease) = lease.filter(|lease| would_change(lease, instance, endpoint)) else {
            return Ok(());
        };
        if self.others.borrow().is_empty() {
            return Ok(());
        }
        let _alone = self.inquiries.begin(&name.node).ok_or_else(|| asked_already(&name.node))?;
        let connections = self.connections_of(&name.node).await;
        let mut watches = connections.watches(&name.node).filter(|watch| watch.network == name.network);
        let Some(holder) = watches.find(|watch| is_original(watch, &lease, instance, boot)) else {
            return Ok(());
        };
        Err(match holder.boot {
            Some(boot) if holder.instance == instance => elsewhere(name, Elsewhere::Streams(boot), None),
            _ => {
                let lease = name.clone();
                refused(Refusal::AnotherInstance { lease, instance, streaming: holder.instance })
            }
        })
    }
}

/// Whether an acquisition would take an active lease over, or move it.
fn would_change(lease: &Lease, instance: InstanceId, endpoint: &Endpoint) -> bool {
    lease.state == LeaseState::Active && (lease.instance != instance || lease.endpoint != *endpoint)
}

/// Whether a watch is of the agent that has the lease, and that is another one than who asks. Hosts that do not tell are
/// in nobody's way, as are former instances whose watches have not ended yet. Whoever does not tell his host is not on
/// one that tells: else to say nothing would do for a thief.
fn is_original(watch: &Watch, lease: &Lease, instance: InstanceId, boot: Option<BootId>) -> bool {
    let is_elsewhere = watch.boot.is_some_and(|there| Some(there) != boot);
    watch.instance == lease.instance && (watch.instance != instance || is_elsewhere)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use loden_proto::model::{Epoch, Subnets};

    use super::*;

    const HOLDER: InstanceId = InstanceId(1);
    const OTHER: InstanceId = InstanceId(2);
    const HERE: Option<BootId> = Some(BootId(1));
    const THERE: Option<BootId> = Some(BootId(2));

    fn lease() -> Lease {
        Lease {
            name: LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() },
            subnets: Subnets { v4: Some("10.1.1.0/24".parse().unwrap()), v6: None },
            endpoint: Endpoint { v4: Some("192.0.2.1".parse().unwrap()), ..Endpoint::default() },
            epoch: Epoch(1),
            state: LeaseState::Active,
            instance: HOLDER,
            created: SystemTime::UNIX_EPOCH,
            expires: None,
            reserved: false,
            revision: 1,
            incarnation: 1,
        }
    }

    #[test]
    fn nobody_is_asked_for_an_agent_that_only_comes_back() {
        let lease = lease();
        let moved = Endpoint { v4: Some("192.0.2.9".parse().unwrap()), ..Endpoint::default() };
        assert!(!would_change(&lease, HOLDER, &lease.endpoint));
        assert!(would_change(&lease, HOLDER, &moved) && would_change(&lease, OTHER, &lease.endpoint));
        let held = Lease { state: LeaseState::Held { since: SystemTime::UNIX_EPOCH }, ..lease };
        assert!(!would_change(&held, OTHER, &moved));
    }

    #[test]
    fn a_copy_is_told_from_an_agent_that_has_moved_or_lost_its_state() {
        let lease = lease();
        let watch = |instance, boot| Watch { network: lease.name.network.clone(), instance, boot };
        for (there, instance, boot, is_copy) in [
            // The disk was copied; the certificate.
            (watch(HOLDER, THERE), HOLDER, HERE, true),
            (watch(HOLDER, THERE), OTHER, HERE, true),
            (watch(HOLDER, None), OTHER, None, true),
            (watch(HOLDER, THERE), HOLDER, None, true),
            // Another address of the same host, on which the old watch has not ended.
            (watch(HOLDER, HERE), HOLDER, HERE, false),
            (watch(HOLDER, None), HOLDER, HERE, false),
            (watch(HOLDER, None), HOLDER, None, false),
            // What it was before has not ended.
            (watch(OTHER, THERE), HOLDER, HERE, false),
        ] {
            assert_eq!(is_original(&there, &lease, instance, boot), is_copy, "{there:?} {instance} {boot:?}");
        }
    }
}
