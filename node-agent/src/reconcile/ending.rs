//! The end of a network whose pools or VNI another network of this agent has now: everything of its own is taken out
//! of the kernel and off the disk, and nothing is done again until its lease is granted anew.
//!
//! ```text
//!  claims of all networks ─▶ ended? ─▶ kernel: nothing ─▶ disk: nothing ─▶ lease: none
//!                        └─▶ waits for another's end? ─▶ it is over ─▶ rebuild
//! ```

use loden_datapath::{Datapath, Host, backend};
use tonic::Code;
use tracing::{info, warn};

use super::Reconcile;
use crate::heirs::{Claim, Said};
use crate::problem::Problem;

impl<D: Datapath + Host> Reconcile<D> {
    /// What the siblings are told.
    pub(super) fn claim(&self) -> Option<Claim> {
        let (_, network) = self.lease.as_ref()?;
        let is_whole = self.may_delete();
        let view = self.ends.lease.borrow();
        let said = match &view.problem {
            _ if is_whole => Said::Whole,
            _ if view.confirmed => Said::Leased,
            Some(Problem::Refused { code: Code::NotFound, .. }) => Said::NotFound,
            _ => Said::Nothing,
        };
        Some(Claim::of(network, said, self.program.desired().is_some()))
    }

    /// Ends where another network has what was this one's, and goes on where one that was in the way has ended.
    pub(super) async fn heed_siblings(&mut self) {
        self.ends.siblings.tell(self.claim());
        // Granted anew before all of it was taken out.
        let is_leased = self.lease.is_some() && self.ends.lease.borrow().confirmed;
        let revived = is_leased && self.ended.take().is_some();
        if let Some(why) = self.ended.clone().or_else(|| self.ends.siblings.ended()) {
            return self.end(why).await;
        }
        let waited = self.waits.take().is_some();
        self.waits = self.ends.siblings.waits();
        if revived || (waited && self.waits.is_none()) {
            self.rebuild("another network has ended").await;
        }
    }

    /// Takes everything out of the kernel, then forgets it. What fails is tried again, and until then known.
    async fn end(&mut self, why: String) {
        let Some((_, network)) = &self.lease else { return };
        if self.ended.as_ref() != Some(&why) {
            warn!(network = %self.place.network, "the network has ended: {why}");
        }
        (self.ended, self.waits) = (Some(why), None);
        let siblings = &self.ends.siblings;
        let scope = backend::scope(network, backend::mac_of(&self.place.node, &self.place.network));
        if !self.program.withdraw(&scope, |seen| siblings.remains(seen)).await {
            return self.retry();
        }
        if let Err(error) = self.file.forget() {
            warn!(%error, "the state of the ended network could not be removed");
        }
        (self.lease, self.granted, self.peers, self.told) = (None, None, None, None);
        (self.source, self.applied_at, self.pass_due, self.retries) = (None, None, None, 0);
        (self.current, self.swept, self.tidied) = (false, false, false);
        self.ends.view.send_modify(|view| view.held = None);
        self.ends.siblings.tell(None);
        info!(network = %self.place.network, "nothing of the network is left in the kernel");
    }
}
