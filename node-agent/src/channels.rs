//! The connection to the control plane: another one takes its place when the certificate has changed.
//!
//! ```text
//! new certificate ─▶ new connection, made ─▶ Channels ─▶ watches are opened over it ─▶ the old one is let go
//! ```

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::transport::Channel;

/// The present connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels {
    channel: watch::Receiver<Channel>,
    /// Which CAs are to be trusted, as the control plane says; 0 until it has.
    generation: Arc<watch::Sender<u32>>,
}

impl Channels {
    /// Those that a sender sends.
    #[must_use]
    pub fn new(channel: watch::Receiver<Channel>) -> Self {
        Self { channel, generation: Arc::default() }
    }

    /// What the control plane says of the CAs to trust.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u32> {
        self.generation.subscribe()
    }

    /// The control plane has said it.
    pub(crate) fn trust(&self, generation: u32) {
        self.generation.send_if_modified(|before| std::mem::replace(before, generation) != generation);
    }

    /// The present one.
    pub(crate) fn now(&self) -> Channel {
        self.channel.borrow().clone()
    }

    /// Waits until another one has taken its place.
    pub(crate) async fn replaced(&mut self) {
        if self.channel.changed().await.is_err() {
            pending().await
        }
    }
}

impl From<Channel> for Channels {
    /// One for ever.
    fn from(channel: Channel) -> Self {
        Self::new(watch::channel(channel).1)
    }
}
