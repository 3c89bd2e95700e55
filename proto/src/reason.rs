//! Errors as gRPC statuses with a stable reason (`google.rpc.ErrorInfo`).

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::InvalidValue;

/// The domain of every reason.
pub const DOMAIN: &str = "loden.dev";

/// What a program can tell errors apart by, beside the code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The server collects the leases held before its store was lost.
    Adopting,
    /// Another instance of the node is streaming.
    AnotherInstance,
    /// The caller's certificate has ended.
    CertificateExpired,
    /// The server lets its client go: to connect again, perhaps to another one.
    Draining,
    /// Clients know another CA of the cluster, of whose life the server knows nothing.
    FormerLife,
    /// A field breaks its rule.
    InvalidField,
    /// No subnet or VNI is left.
    Exhausted,
    /// The named thing does not exist.
    NotFound,
    /// The caller may not do this.
    NotAllowed,
    /// The pool overlaps the host's underlay.
    OverlapsUnderlay,
    /// Too many calls of this kind come.
    RateLimited,
    /// The caller's certificate was revoked.
    Revoked,
    /// The server has just started and waits for its agents.
    Settling,
    /// The client read too slowly.
    SlowClient,
    /// The lease has been acquired by a newer instance.
    StaleEpoch,
    /// The network has changed since the caller read it.
    StaleRevision,
    /// The store does not take writes.
    StoreFailed,
    /// The subnet was given to somebody else.
    SubnetTaken,
    /// The name, number or address belongs to somebody else.
    Taken,
    /// The token's time has passed.
    TokenExpired,
    /// There is no such token, or its secret is another.
    TokenInvalid,
    /// The token has let in as many as it may.
    TokenSpent,
    /// Something depends on it.
    InUse,
}

impl Reason {
    /// As sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adopting => "ADOPTING",
            Self::AnotherInstance => "ANOTHER_INSTANCE",
            Self::CertificateExpired => "CERTIFICATE_EXPIRED",
            Self::Draining => "DRAINING",
            Self::FormerLife => "FORMER_LIFE",
            Self::InvalidField => "INVALID_FIELD",
            Self::Exhausted => "EXHAUSTED",
            Self::NotFound => "NOT_FOUND",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::OverlapsUnderlay => "OVERLAPS_UNDERLAY",
            Self::RateLimited => "RATE_LIMITED",
            Self::Revoked => "REVOKED",
            Self::Settling => "SETTLING",
            Self::SlowClient => "SLOW_CLIENT",
            Self::StaleEpoch => "STALE_EPOCH",
            Self::StaleRevision => "STALE_REVISION",
            Self::StoreFailed => "STORE_FAILED",
            Self::SubnetTaken => "SUBNET_TAKEN",
            Self::Taken => "TAKEN",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenSpent => "TOKEN_SPENT",
            Self::InUse => "IN_USE",
        }
    }

    /// Whether a status carries this reason.
    #[must_use]
    pub fn is_of(self, status: &Status) -> bool {
        of(status).as_deref() == Some(self.as_str())
    }
}

/// The reason that a status carries.
#[must_use]
pub fn of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// How long the server asks the client to wait.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// As the gRPC specification writes it: `INVALID_ARGUMENT`.
#[must_use]
pub fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// A status with a reason.
pub fn status(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// A status with a reason that asks the client to wait.
pub fn status_retry(code: Code, reason: Reason, message: impl Into<String>, after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    details.set_retry_info(Some(after));
    Status::with_error_details(code, message, details)
}

impl From<InvalidValue> for Status {
    fn from(invalid: InvalidValue) -> Self {
        let metadata = HashMap::from([
            ("field".to_owned(), invalid.field.clone()),
            ("value".to_owned(), invalid.value.clone()),
        ]);
        let mut details = ErrorDetails::with_error_info(Reason::InvalidField.as_str(), DOMAIN, metadata);
        details.add_bad_request_violation(invalid.field.clone(), invalid.rule.clone());
        Self::with_error_details(Code::InvalidArgument, invalid.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire() {
        let sent = status_retry(Code::Unavailable, Reason::Adopting, "adopting", Duration::from_secs(7));
        let received = Status::with_details(sent.code(), sent.message(), sent.details().to_vec().into());
        assert!(Reason::Adopting.is_of(&received));
        assert!(!Reason::Settling.is_of(&received));
        assert_eq!(retry_after(&received), Some(Duration::from_secs(7)));
    }

    #[test]
    fn codes_are_named_as_in_the_specification() {
        for (code, name) in [
            (Code::Ok, "OK"),
            (Code::NotFound, "NOT_FOUND"),
            (Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
        ] {
            assert_eq!(code_name(code), name);
        }
    }

    #[test]
    fn an_invalid_value_is_an_invalid_argument() {
        let status = Status::from(InvalidValue::new(0, "must be a VNI").at("network.vni"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "network.vni: \"0\" must be a VNI");
    }
}
