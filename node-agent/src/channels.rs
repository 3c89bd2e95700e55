//! The connection to the control plane: another one takes its place when the certificate has changed.
//!
//! ```text
//! new certificate ─▶ new connection, made ─▶ Channels ─▶ watches are opened over it ─▶ the old one is let go
//! ```

use std::future::pending;

use tokio::sync::watch;
use tonic::transport::Channel;

/// The present connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels(watch::Receiver<Channel>);

impl Channels {
    /// Those that a sender sends.
    #[must_use]
    pub const fn new(channels: watch::Receiver<Channel>) -> Self {
        Self(channels)
    }

    /// The present one.
    pub(crate) fn now(&self) -> Channel {
        self.0.borrow().clone()
    }

    /// Waits until another one has taken its place.
    pub(crate) async fn replaced(&mut self) {
        if self.0.changed().await.is_err() {
            pending().await
        }
    }
}

impl From<Channel> for Channels {
    /// One for ever.
    fn from(channel: Channel) -> Self {
        Self(watch::channel(channel).1)
    }
}
