//! What can be wrong with an etcd, in words for whoever runs it.

use std::error::Error;

use super::super::Revision;
use super::EtcdAddress;

/// Something did not go on with etcd.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It cannot be reached, or refuses: perhaps only for a while.
    #[error("etcd: {}", words(.0))]
    Etcd(#[from] etcd_client::Error),
    /// What is there is none of ours, or damaged.
    #[error("{0} in etcd is corrupt")]
    Corrupt(String),
    /// Somebody has taken what is ours away.
    #[error("{0} was deleted from etcd, perhaps with the whole store")]
    Deleted(String),
    /// What is there has gone on without us, and further than it remembers: to be read anew.
    #[error(
        "etcd has gone on to revision {there}, and remembers nothing after revision {here}, which is known here"
    )]
    Behind {
        /// What is known here.
        here: Revision,
        /// Where it stands, or the oldest that it remembers.
        there: Revision,
    },
    /// The log has another way behind it: etcd was restored from a copy.
    #[error(
        "what is in etcd does not follow revision {here}, which is known here: it was restored from a copy"
    )]
    Other {
        /// What is known here.
        here: Revision,
    },
}

impl Failure {
    /// Whether reading everything anew, as a start does, mends it.
    pub(super) const fn is_mended_by_reading(&self) -> bool {
        matches!(self, Self::Behind { .. } | Self::Other { .. })
    }
}

/// Why an etcd store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// It cannot be reached, or refuses us.
    #[error("store {address}: {}", words(source))]
    Etcd {
        /// Where.
        address: EtcdAddress,
        /// What it says.
        source: etcd_client::Error,
    },
    /// There is nothing below the prefix.
    #[error(
        "store {address}: there is no store in this etcd below {}: the prefix may be misspelt. To make a new one: \
         loden-control-plane store create; to bring one here: loden-control-plane store copy",
        address.prefix
    )]
    Absent {
        /// Where.
        address: EtcdAddress,
    },
    /// A copy to it was cut off.
    #[error("store {address} is half a copy: run the command again that was to copy to it")]
    Half {
        /// Where.
        address: EtcdAddress,
    },
    /// There is something below the prefix where a store was to be made.
    #[error("store {address}: there is one already")]
    Present {
        /// Where.
        address: EtcdAddress,
    },
    /// It was written by another version.
    #[error(
        "store {address} has format \"{found}\", this version reads format \"{}\" only",
        super::layout::FORMAT
    )]
    Format {
        /// Where.
        address: EtcdAddress,
        /// The format it says it has.
        found: String,
    },
    /// There are keys below the prefix that are none of ours.
    #[error("store {address}: there are keys without our format mark, so it is not a store of this program")]
    Foreign {
        /// Where.
        address: EtcdAddress,
    },
    /// A record or group does not read back as it was written.
    #[error("{key} in store {address} is corrupt")]
    Corrupt {
        /// Where.
        address: EtcdAddress,
        /// Its name in etcd.
        key: String,
    },
    /// Each part reads well, but they do not belong together.
    #[error("store {address} contradicts itself: {what}")]
    Inconsistent {
        /// Where.
        address: EtcdAddress,
        /// What does not agree.
        what: String,
    },
    /// It can be read, and cannot be followed.
    #[error("store {address} cannot be followed: {cause}")]
    Unfollowed {
        /// Where.
        address: EtcdAddress,
        /// Why.
        cause: super::super::Cause,
    },
}

/// What etcd or its client means, without the wrapping.
pub(super) fn words(error: &etcd_client::Error) -> String {
    let mut innermost: &dyn Error = match error {
        // Its own words if it comes from etcd.
        etcd_client::Error::GRpcStatus(status) if status.source().is_none() => {
            return status.message().to_owned();
        }
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => error,
        other => return other.to_string(),
    };
    // The innermost says what the system said, the others only that there was something.
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
