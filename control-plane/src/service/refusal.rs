//! Refusals as statuses: one match, no default, so that a new refusal must be thought of here.

use std::net::SocketAddr;
use std::time::Duration;

use loden_proto::model::LeaseName;
use loden_proto::names::{self, NodeId};
use loden_proto::reason::{Reason, status, status_retry};
use tonic::{Code, Status};

use crate::clerk::SubmitError;
use crate::ledger::{Refusal, Shut};
use crate::watch::Elsewhere;

/// When to try again while the store does not write: it is probed about that often.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// When to try again while there are signs of a former life: agents of it may be heard any time.
const KNOCKED_RETRY: Duration = Duration::from_secs(5);
/// When to try again while too many commands wait, or one of the same node does.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// A refused command, for the client.
pub(super) fn refused(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Invalid(invalid) => invalid.into(),
        Refusal::NotFound(_) => status(Code::NotFound, Reason::NotFound, message),
        Refusal::Exists(_) | Refusal::Taken { .. } | Refusal::PoolOverlaps { .. } => {
            status(Code::AlreadyExists, Reason::Taken, message)
        }
        Refusal::AnotherInstance { .. } => status(Code::AlreadyExists, Reason::AnotherInstance, message),
        Refusal::OverlapsUnderlay { .. } => {
            status(Code::FailedPrecondition, Reason::OverlapsUnderlay, message)
        }
        Refusal::PortDisagrees { .. }
        | Refusal::PortTaken { .. }
        | Refusal::PoolInUse { .. }
        | Refusal::NetworkInUse { .. }
        | Refusal::NotDue { .. }
        | Refusal::Deleting(_) => status(Code::FailedPrecondition, Reason::InUse, message),
        Refusal::SlotInUse { .. } => status(Code::FailedPrecondition, Reason::Taken, message),
        Refusal::CoolingDown { remaining, .. } => {
            status_retry(Code::FailedPrecondition, Reason::InUse, message, remaining)
        }
        Refusal::Exhausted { .. } | Refusal::VnisExhausted { .. } => {
            status(Code::ResourceExhausted, Reason::Exhausted, message)
        }
        Refusal::StaleEpoch { .. } => status(Code::Aborted, Reason::StaleEpoch, message),
        Refusal::StaleRevision { .. } | Refusal::AuthorityChanged => {
            status(Code::Aborted, Reason::StaleRevision, message)
        }
        Refusal::Adopting { remaining, .. } => {
            status_retry(Code::Unavailable, Reason::Adopting, message, remaining)
        }
        Refusal::Knocked(_) => status_retry(Code::Unavailable, Reason::FormerLife, message, KNOCKED_RETRY),
        Refusal::Shut(shut) => match shut {
            Shut::NoToken(_) => status(Code::Unauthenticated, Reason::TokenInvalid, message),
            Shut::Expired(_) => status(Code::Unauthenticated, Reason::TokenExpired, message),
            Shut::Spent(_) => status(Code::Unauthenticated, Reason::TokenSpent, message),
            Shut::Revoked(_) => status(Code::PermissionDenied, Reason::Revoked, message),
            Shut::Bound { .. } | Shut::Known(_) | Shut::Network { .. } => {
                status(Code::PermissionDenied, Reason::NotAllowed, message)
            }
        },
        Refusal::Settling { retry_after } => {
            status_retry(Code::Unavailable, Reason::Settling, message, retry_after)
        }
    }
}

/// An agent whose instance is on another host, for the client. It may be a thief, and is not told what the host would
/// have to be shown for it.
pub(super) fn elsewhere(lease: &LeaseName, other: Elsewhere, address: Option<SocketAddr>) -> Status {
    match other {
        Elsewhere::Streams(boot) => {
            let from = address.map(|address| format!(" at {address}")).unwrap_or_default();
            let boot = boot.first_digits();
            let message = format!(
                "boot_id: another host{from}, of boot id {boot}, is connected with {lease} and the same \
                 instance_id; was its disk copied?"
            );
            status(Code::AlreadyExists, Reason::AnotherInstance, message)
        }
        Elsewhere::Acquired(boot) => {
            let boot = boot.first_digits();
            let message = format!(
                "boot_id: another host, of boot id {boot}, has acquired {lease} with the same instance_id \
                 since; acquire it first"
            );
            status(Code::FailedPrecondition, Reason::StaleEpoch, message)
        }
    }
}

/// A node that the other replicas are being asked about, for its next call that needs an answer of them.
pub(super) fn asked_already(node: &NodeId) -> Status {
    let message = format!(
        "the other control planes are being asked already where {} is connected; call again then",
        names::node(node)
    );
    status_retry(Code::Unavailable, Reason::RateLimited, message, BUSY_RETRY)
}

/// A command that did not happen, for the client.
pub(super) fn failed(error: SubmitError) -> Status {
    let message = error.to_string();
    match error {
        SubmitError::Refused(refusal) => refused(refusal),
        SubmitError::Store(_) => status_retry(Code::Unavailable, Reason::StoreFailed, message, STORE_RETRY),
        SubmitError::Busy => status_retry(Code::Unavailable, Reason::StoreFailed, message, BUSY_RETRY),
        SubmitError::Aborted(_) => Status::aborted(message),
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::InvalidValue;
    use loden_proto::model::{BootId, Epoch, Family, InstanceId, LeaseName, Vni};
    use loden_proto::reason;

    use super::*;
    use crate::clerk::StoreFailure;
    use crate::ledger::{Knocked, Named, VniRange};

    const SECONDS: Duration = Duration::from_secs(7);

    fn lease() -> LeaseName {
        LeaseName { network: "blue".parse().unwrap(), node: "a".parse().unwrap() }
    }

    /// Code, reason and whether the client is told when to try again.
    fn told(status: &Status) -> (Code, Option<String>, Option<Duration>) {
        (status.code(), reason::of(status), reason::retry_after(status))
    }

    #[test]
    fn every_refusal_has_its_code_its_reason_and_its_words() {
        let network = lease().network;
        let cases = [
            (Refusal::Invalid(InvalidValue::new(0, "no")), Code::InvalidArgument, Reason::InvalidField, None),
            (Refusal::NotFound(Named::Lease(lease())), Code::NotFound, Reason::NotFound, None),
            (Refusal::Exists(Named::Network(network.clone())), Code::AlreadyExists, Reason::Taken, None),
            (
                Refusal::Taken {
                    field: "endpoint.address_v4".to_owned(),
                    value: "192.0.2.1".to_owned(),
                    owner: Named::Lease(lease()),
                    within: "cluster",
                },
                Code::AlreadyExists,
                Reason::Taken,
                None,
            ),
            (
                Refusal::Exhausted { network: network.clone(), family: Family::V4, pools: Vec::new() },
                Code::ResourceExhausted,
                Reason::Exhausted,
                None,
            ),
            (
                Refusal::VnisExhausted { ranges: vec![VniRange { first: Vni::MIN, last: Vni::MIN }] },
                Code::ResourceExhausted,
                Reason::Exhausted,
                None,
            ),
            (
                Refusal::NetworkInUse { network: network.clone(), leases: 1, reservations: 0 },
                Code::FailedPrecondition,
                Reason::InUse,
                None,
            ),
            (Refusal::Deleting(network), Code::FailedPrecondition, Reason::InUse, None),
            (
                Refusal::SlotInUse {
                    field: "reservation.subnets[0]".to_owned(),
                    subnet: "10.1.1.0/24".parse().unwrap(),
                    owner: Named::Lease(lease()),
                    held: true,
                },
                Code::FailedPrecondition,
                Reason::Taken,
                None,
            ),
            (
                Refusal::StaleEpoch { lease: lease(), sent: Epoch(1), current: Epoch(2) },
                Code::Aborted,
                Reason::StaleEpoch,
                None,
            ),
            (
                Refusal::StaleRevision { network: "blue".parse().unwrap(), seen: 1, current: 2 },
                Code::Aborted,
                Reason::StaleRevision,
                None,
            ),
            (
                Refusal::AnotherInstance {
                    lease: lease(),
                    instance: InstanceId(1),
                    streaming: InstanceId(2),
                },
                Code::AlreadyExists,
                Reason::AnotherInstance,
                None,
            ),
            (
                Refusal::Adopting { remaining: SECONDS, reason: "no claim".to_owned() },
                Code::Unavailable,
                Reason::Adopting,
                Some(SECONDS),
            ),
            (
                Refusal::Knocked(Knocked {
                    last: "192.0.2.7:4711".parse().unwrap(),
                    ago: SECONDS,
                    hosts: 2,
                    remaining: SECONDS,
                }),
                Code::Unavailable,
                Reason::FormerLife,
                Some(KNOCKED_RETRY),
            ),
            (Refusal::Settling { retry_after: SECONDS }, Code::Unavailable, Reason::Settling, Some(SECONDS)),
        ];
        for (refusal, code, reason, retry) in cases {
            let words = refusal.to_string();
            let status = failed(refusal.into());
            assert_eq!(told(&status), (code, Some(reason.as_str().to_owned()), retry), "{words}");
            assert_eq!(status.message(), words);
        }
    }

    #[test]
    fn who_asks_twice_at_once_is_told_when_to_come_back() {
        let reason = Some(Reason::RateLimited.as_str().to_owned());
        let status = asked_already(&lease().node);
        assert_eq!(told(&status), (Code::Unavailable, reason, Some(BUSY_RETRY)));
        assert!(status.message().contains("where nodes/a is connected"), "{status}");
    }

    #[test]
    fn who_is_refused_does_not_learn_what_the_other_host_is_known_by() {
        let boot = BootId(0x9e41_0000_0000_0000_0000_0000_0000_0007);
        let address = Some("192.0.2.7:40312".parse().unwrap());
        let streams = elsewhere(&lease(), Elsewhere::Streams(boot), address);
        let message = "boot_id: another host at 192.0.2.7:40312, of boot id 9e41…, is connected with \
                       networks/blue/leases/a and the same instance_id; was its disk copied?";
        assert_eq!((streams.code(), streams.message()), (Code::AlreadyExists, message));
        let acquired = elsewhere(&lease(), Elsewhere::Acquired(boot), None);
        assert_eq!(acquired.code(), Code::FailedPrecondition);
        for status in [streams, acquired] {
            assert!(!status.message().contains(&boot.to_string()), "{status}");
        }
    }

    #[test]
    fn a_store_that_does_not_write_is_unavailable_and_worth_another_try() {
        let failure = StoreFailure("no space left on device".into());
        let status = failed(failure.into());
        let reason = Some(Reason::StoreFailed.as_str().to_owned());
        assert_eq!(told(&status), (Code::Unavailable, reason, Some(STORE_RETRY)));
        assert_eq!(status.message(), "the store does not take writes: no space left on device");
        assert_eq!(failed(SubmitError::Busy).code(), Code::Unavailable);
        assert_eq!(failed(SubmitError::Aborted(16)).code(), Code::Aborted);
    }
}
