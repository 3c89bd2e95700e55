//! Refusals as statuses: one match, no default, so that a new refusal must be thought of here.

use std::time::Duration;

use loden_proto::reason::{Reason, status, status_retry};
use tonic::{Code, Status};

use crate::clerk::SubmitError;
use crate::ledger::Refusal;

/// When to try again while the store does not write: it is probed about that often.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// When to try again while too many commands wait.
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
        Refusal::Adopting { remaining, .. } => {
            status_retry(Code::Unavailable, Reason::Adopting, message, remaining)
        }
        Refusal::Settling { retry_after } => {
            status_retry(Code::Unavailable, Reason::Settling, message, retry_after)
        }
    }
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
