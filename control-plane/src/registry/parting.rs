//! Why a client is asked to come back over another connection, and when.

use std::fmt;
use std::time::Duration;

/// When who has somewhere else to go connects again: once it is known that this connection takes no more calls.
const AT_ONCE: Duration = Duration::from_millis(50);
/// When who has not does: a server that is started again takes about as long.
const RESTART: Duration = Duration::from_millis(500);

/// Why a client is asked to come back over another connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parting {
    /// The server shuts down.
    ShutDown {
        /// Whether another replica serves.
        elsewhere: bool,
    },
    /// The connection is as old as it may be.
    Aged,
    /// This replica has more clients than the others.
    Shed,
    /// This replica cannot reach its store, and another one may.
    CutOff,
}

impl Parting {
    /// How long the client waits before it connects again.
    #[must_use]
    pub const fn pause(self) -> Duration {
        match self {
            Self::ShutDown { elsewhere: false } => RESTART,
            Self::ShutDown { elsewhere: true } | Self::Aged | Self::Shed | Self::CutOff => AT_ONCE,
        }
    }
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown { .. } => "the server shuts down",
            Self::Aged => "the connection is as old as it may be",
            Self::CutOff => "this replica cannot reach its store",
            Self::Shed => "the other replicas have fewer clients",
        })
    }
}
