//! Whole passes over the kernel: when something may be deleted, and of which networks.
//!
//! ```text
//!  set and lease confirmed ─▶ sweep: what is the network's and not desired
//!  all networks confirmed ──▶ tidy:  what is in no network's pools
//! ```

use std::time::SystemTime;

use ipnet::IpNet;
use loden_datapath::{Datapath, Host};

use super::Reconcile;
use crate::peers::PeerSet;
use crate::upkeep::next_audit;

impl<D: Datapath + Host> Reconcile<D> {
    pub(super) fn may_delete(&self) -> bool {
        self.current
            && self.ends.lease.borrow().confirmed
            && self.peers.as_ref().is_some_and(PeerSet::is_whole)
    }

    /// The pools of all networks of the host, once nothing is left to be known.
    fn all_pools(&self) -> Option<Vec<IpNet>> {
        self.ends.siblings.all_pools().filter(|_| self.may_delete())
    }

    /// Removes what is not desired, as soon as that may be and unless it was done.
    pub(super) async fn sweep(&mut self) {
        if self.may_delete() && !self.swept && self.pass_due.is_none() {
            self.pass("first whole set").await;
        }
    }

    /// The same for what is of no network.
    pub(super) async fn tidy(&mut self) {
        if self.swept && !self.tidied && self.pass_due.is_none() && self.all_pools().is_some() {
            self.pass("all networks are known").await;
        }
    }

    pub(super) async fn pass(&mut self, why: &'static str) {
        self.pass_due = None;
        self.drift.clear();
        self.audit_due = next_audit();
        let (delete, all) = (self.may_delete(), self.all_pools());
        let (Some(peers), Some(desired)) = (&self.peers, self.program.desired()) else { return };
        if self.ended.is_some() {
            return;
        }
        if !desired.tables().listening.is_empty() {
            self.tunnels.expect();
        }
        let tidied = all.is_some();
        if self.program.pass(peers, delete, all, why).await {
            self.retries = 0;
            (self.swept, self.tidied) = (delete, tidied);
            self.applied_at = Some(SystemTime::now());
        } else {
            self.retry();
        }
    }
}
