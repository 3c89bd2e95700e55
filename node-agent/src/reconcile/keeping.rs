//! What is known, on disk.

use loden_datapath::{Datapath, Host};
use tracing::{info, warn};

use super::Reconcile;
use crate::state::{Content, Rest};

impl<D: Datapath + Host> Reconcile<D> {
    /// Writes the whole state where a change alone could not be kept. What
    /// cannot be kept is programmed all the same: the kernel is what counts.
    pub(super) async fn saved(&mut self, kept: std::io::Result<bool>) {
        if matches!(kept, Ok(true)) {
            return;
        }
        let rest =
            Rest { sends_from: &self.sends_from, keys: self.keys.as_ref(), silent: self.silence.addresses() };
        let content = Content::of(self.lease.as_ref(), self.peers.as_ref(), rest);
        let written = match content {
            Ok(content) => self.file.rewrite(content).await,
            Err(error) => Err(error),
        };
        let unsaved = written.err().map(|error| error.to_string());
        match (&self.unsaved, &unsaved) {
            (None, Some(error)) => warn!(error, "state not saved"),
            (Some(_), None) => info!("state saved again"),
            _ => {}
        }
        self.unsaved = unsaved;
    }
}
