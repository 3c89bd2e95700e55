//! What stands between the agent and its control plane: nobody answers, or it
//! is there and refuses.

use std::fmt;

use loden_proto::reason;
use loden_transport::explain;
use tonic::{Code, Status};

use crate::session::Reason;

/// Why a call did not go through or a watch is not open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Problem {
    /// Nobody answers, or the connection was lost.
    Away(String),
    /// The control plane is there and does not do it.
    Refused {
        /// What kind of refusal.
        code: Code,
        /// What programs tell it by (`google.rpc.ErrorInfo`), where there is one.
        reason: Option<String>,
        /// For people.
        message: String,
    },
    /// It answers, and cannot be understood.
    Unreadable(String),
}

impl Problem {
    /// What a failed call says.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let reason = reason::of(status);
        // An error with a cause was made on our side of the connection.
        let ours = std::error::Error::source(status).is_some();
        match status.code() {
            // It goes, and what it has said is no refusal.
            Code::Unavailable if reason::Reason::Draining.is_of(status) => Self::Away(explain(status)),
            Code::DataLoss if reason.is_none() => Self::Unreadable(explain(status)),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled if reason.is_none() => {
                Self::Away(explain(status))
            }
            _ if reason.is_none() && ours => Self::Away(explain(status)),
            code => Self::Refused { code, reason, message: status.message().to_owned() },
        }
    }
}

impl From<Reason> for Problem {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NoAnswer | Reason::Silence => Self::Away(reason.to_string()),
            Reason::DeltaBeforeSnapshot | Reason::MissingPage => Self::Unreadable(reason.to_string()),
        }
    }
}

/// The reason first, which the documentation is ordered by; the code last.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(text) | Self::Unreadable(text) => f.write_str(text),
            Self::Refused { code, reason, message } => {
                if let Some(reason) = reason {
                    write!(f, "{reason}: ")?;
                }
                write!(f, "{message} ({})", reason::code_name(*code))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loden_proto::InvalidValue;
    use loden_proto::reason::Reason as Sent;

    use super::*;

    fn shown(status: &Status) -> (&'static str, String) {
        let problem = Problem::of(status);
        let kind = match &problem {
            Problem::Away(_) => "away",
            Problem::Refused { .. } => "refused",
            Problem::Unreadable(_) => "unreadable",
        };
        (kind, problem.to_string())
    }

    #[test]
    fn a_refusal_has_code_reason_and_message() {
        let invalid = Status::from(InvalidValue::new("0.0.0.0", "must be unicast").at("endpoint.address_v4"));
        let text = "INVALID_FIELD: endpoint.address_v4: \"0.0.0.0\" must be unicast (INVALID_ARGUMENT)";
        assert_eq!(shown(&invalid), ("refused", text.into()));
        let settling = reason::status_retry(Code::Unavailable, Sent::Settling, "wait", Duration::ZERO);
        assert_eq!(shown(&settling), ("refused", "SETTLING: wait (UNAVAILABLE)".into()));
        let bare = Status::permission_denied("not you");
        assert_eq!(shown(&bare), ("refused", "not you (PERMISSION_DENIED)".into()));
    }

    #[test]
    fn who_does_not_answer_or_breaks_off_is_away() {
        assert_eq!(shown(&Status::unavailable("closed")), ("away", "closed".into()));
        assert_eq!(shown(&Status::deadline_exceeded("no answer")), ("away", "no answer".into()));
        let goes = reason::status_retry(Code::Unavailable, Sent::Draining, "it goes", Duration::ZERO);
        assert_eq!(shown(&goes), ("away", "it goes".into()));
        let mut broken = Status::unknown("transport error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert_eq!(shown(&broken).0, "away");
        assert_eq!(Problem::from(Reason::Silence), Problem::Away(Reason::Silence.to_string()));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_neither() {
        assert_eq!(shown(&Status::data_loss("page 3")), ("unreadable", "page 3".into()));
    }
}
