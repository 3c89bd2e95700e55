//! Why we end a connection at once.

use std::fmt;
use std::time::Duration;

/// Why a connection was ended by us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// The identity, or the source of hosts without one, has opened more connections than it may; the oldest goes.
    TooMany {
        /// How many it may have.
        limit: usize,
    },
    /// The client has not begun HTTP/2.
    NoPreface {
        /// How long it could have.
        after: Duration,
    },
    /// The client has not read for so long.
    Slow {
        /// Since it last took something.
        lag: Duration,
    },
    /// Too much is held for clients that do not read, and most of it for this one.
    Unread {
        /// How much is held for all of them at most, in bytes.
        limit: usize,
    },
    /// Nothing has come from the client for too long, not even the answer to a ping.
    Silent,
    /// The node was shut out.
    Revoked,
    /// The client's certificate has ended long ago, and it has shown no other one.
    Expired,
    /// Its CA is trusted no more.
    Retired,
    /// A host that came to join is still there.
    Joining {
        /// How long it could have.
        after: Duration,
    },
    /// The client was asked to go, and is still there.
    Stayed {
        /// How long it could have taken.
        after: Duration,
    },
    /// The server is shutting down and the client has not gone by itself.
    Drained,
}

impl EndReason {
    /// Every kind, for metrics.
    pub(crate) const LABELS: [&str; 11] = [
        "too_many",
        "no_preface",
        "slow",
        "unread",
        "silent",
        "drained",
        "revoked",
        "expired",
        "joining",
        "retired",
        "stayed",
    ];

    /// The kind, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => Self::LABELS[0],
            Self::NoPreface { .. } => Self::LABELS[1],
            Self::Slow { .. } => Self::LABELS[2],
            Self::Unread { .. } => Self::LABELS[3],
            Self::Silent => Self::LABELS[4],
            Self::Drained => Self::LABELS[5],
            Self::Revoked => Self::LABELS[6],
            Self::Expired => Self::LABELS[7],
            Self::Joining { .. } => Self::LABELS[8],
            Self::Retired => Self::LABELS[9],
            Self::Stayed { .. } => Self::LABELS[10],
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit } => {
                write!(f, "more than {limit} connections of one identity; the oldest was ended")
            }
            Self::NoPreface { after } => {
                write!(f, "the client has not begun HTTP/2 within {} s", after.as_secs())
            }
            Self::Slow { lag } => write!(f, "the client has not read for {} s", lag.as_secs()),
            Self::Unread { limit } => write!(
                f,
                "more than {} MiB are held for clients that do not read, most of it for this one",
                limit >> 20
            ),
            Self::Silent => f.write_str("the client does not answer, not even to a ping"),
            Self::Revoked => f.write_str("the node was revoked"),
            Self::Expired => f.write_str("the client's certificate has ended, and it has shown no other one"),
            Self::Retired => f.write_str("the CA of the client's certificate is trusted no more"),
            Self::Joining { after } => {
                write!(f, "a host without a certificate may stay {} s to join", after.as_secs())
            }
            Self::Stayed { after } => {
                write!(f, "the client was asked to go and was still there after {} s", after.as_secs())
            }
            Self::Drained => f.write_str("the server shut down"),
        }
    }
}
