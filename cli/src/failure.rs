//! What went wrong, and the exit code for it.

use std::error::Error;
use std::io;
use std::time::Duration;

use loden_process::exit;
use loden_proto::reason;
use loden_transport::{ConnectError, explain};
use tonic::{Code, Status};

/// Why a command has failed, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no {what} is given: use --{what}, {variable} or `{what}` in the configuration file")]
    Missing { what: &'static str, variable: &'static str },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", message(.0))]
    Status(Box<Status>),
    #[error("the connection was lost before the answer came ({0}): a change may have been made or not")]
    Lost(String),
    #[error("the control plane did not answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if is_ours(&status) { Self::Lost(explain(&status)) } else { Self::Status(Box::new(status)) }
    }
}

impl Failure {
    /// As documented in `--help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. } | Self::Usage(_) => exit::USAGE,
            Self::Connect(error) if error.is_unreachable() => exit::UNREACHABLE,
            Self::Connect(_) => exit::USAGE,
            Self::Status(status) if status.code() == Code::NotFound => exit::NOT_FOUND,
            Self::Lost(_) | Self::TimedOut(_) => exit::UNREACHABLE,
            Self::Status(_) | Self::Output(_) => exit::FAILED,
        }
    }
}

/// Whether the status was made at our end, of a broken connection: what a
/// server sends has no source.
pub(crate) fn is_ours(status: &Status) -> bool {
    status.source().is_some()
}

fn message(status: &Status) -> String {
    if is_ours(status) {
        return explain(status);
    }
    let text = match status.message() {
        "" => status.code().description(),
        text => text,
    };
    match reason::retry_after(status) {
        Some(after) => {
            // Whole seconds are what a person waits.
            let after = Duration::from_secs(after.as_secs_f64().ceil() as u64);
            format!("{text} (try again in {})", humantime::format_duration(after))
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::InvalidValue;
    use loden_proto::reason::{Reason, status, status_retry};

    use super::*;

    #[test]
    fn the_servers_message_is_printed_as_it_is() {
        let invalid = InvalidValue::new("10.0.0.1/8", "has host bits set").at("network.pools[0].cidr");
        let failure = Failure::from(Status::from(invalid));
        assert_eq!(failure.to_string(), "network.pools[0].cidr: \"10.0.0.1/8\" has host bits set");
        assert_eq!(failure.exit_code(), exit::FAILED);
    }

    #[test]
    fn the_time_to_wait_is_told() {
        let status =
            status_retry(Code::Unavailable, Reason::Adopting, "adopting leases", Duration::from_secs(90));
        let failure = Failure::from(status);
        assert_eq!(failure.to_string(), "adopting leases (try again in 1m 30s)");
        assert_eq!(failure.exit_code(), exit::FAILED);
    }

    #[test]
    fn exit_codes_tell_absent_unreachable_and_misused_apart() {
        let absent = status(Code::NotFound, Reason::NotFound, "networks/blue does not exist");
        assert_eq!(Failure::from(absent).exit_code(), exit::NOT_FOUND);
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let lost = Failure::from(broken);
        assert_eq!(lost.exit_code(), exit::UNREACHABLE);
        assert!(lost.to_string().ends_with("a change may have been made or not"), "{lost}");
        let missing = Failure::Missing { what: "server", variable: "LODEN_SERVER" };
        assert_eq!(missing.exit_code(), exit::USAGE);
        assert!(missing.to_string().contains("use --server, LODEN_SERVER or `server`"), "{missing}");
        assert_eq!(Failure::from(ConnectError::NoServer).exit_code(), exit::USAGE);
    }
}
