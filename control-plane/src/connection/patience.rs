//! How long is waited for clients.

use std::time::Duration;

/// How long is waited for clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a connection may wait for its turn: clients have given up by then.
    pub(super) wait: Duration,
    /// How long a client may take to begin its handshake, and how long that may take.
    pub(super) handshake: Duration,
    /// How long a client may take to begin HTTP/2; only then can it be pinged.
    pub(super) preface: Duration,
    /// After this time without a frame a ping is sent (HTTP/2, RFC 9113 §6.7).
    pub(super) keep_alive: Duration,
    /// How long the answer to a ping may take.
    pub(super) keep_alive_answer: Duration,
    /// How long a host without a certificate may stay.
    pub(super) joining: Duration,
    /// How old a connection becomes, about, before its client is asked to come back over another one.
    pub(super) age: Duration,
    /// How long a client that was asked to go may still take.
    pub(super) staying: Duration,
}

impl Patience {
    /// The usual one, with connections that become as old as this.
    pub(crate) fn until(age: Duration) -> Self {
        Self { age, ..Self::default() }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
            preface: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            keep_alive_answer: Duration::from_secs(10),
            joining: Duration::from_secs(30),
            age: Duration::from_secs(3600),
            staying: Duration::from_secs(10),
        }
    }
}
