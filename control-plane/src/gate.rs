//! Who is let in though its certificate is good by itself: no node that was shut out, and nobody whose certificate has
//! ended since.
//!
//! ```text
//! handshake, and once more after it ──┐
//! every call ─────────────────────────┼─▶ Keeper ─▶ identity epoch in the ledger, CAs that are trusted, time
//! open connections, at every change ──┘
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_proto::reason::{self, Reason};
use loden_transport::{Gate, Holder, Role, SpiffeId};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Code, Status};

use crate::clerk::ClerkHandle;
use crate::identity::Pki;
use crate::registry::{Client, EndReason};
use crate::service::Shared;

/// How long a connection may outlive its certificate: clients that renew theirs are gone long before.
const OVERTIME: Duration = Duration::from_secs(3600);
/// How often it is looked for connections that have.
const LOOK: Duration = Duration::from_secs(60);

/// Looks at whoever comes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    clerk: ClerkHandle,
    pki: Arc<Pki>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

impl Gate for Keeper {
    fn lets_in(&self, holder: &Holder) -> bool {
        !self.is_shut_out(holder) && self.is_trusted(holder)
    }
}

impl Keeper {
    pub(crate) const fn new(clerk: ClerkHandle, pki: Arc<Pki>) -> Self {
        Self { clerk, pki }
    }

    fn is_shut_out(&self, holder: &Holder) -> bool {
        match &holder.id {
            SpiffeId { role: Role::Node(node), .. } => {
                self.clerk.read(|ledger| holder.epoch < ledger.identity_epoch(node))
            }
            _ => false,
        }
    }

    /// Whether the CA that has made a certificate is trusted still. What the certificate says of itself is no matter.
    fn is_trusted(&self, holder: &Holder) -> bool {
        holder.root.is_some_and(|root| self.pki.authority().trusts(root))
    }

    /// Looks at a caller.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it was shut out, UNAUTHENTICATED when its certificate has ended.
    pub(crate) fn check(&self, holder: &Holder, now: SystemTime) -> Result<(), Status> {
        let id = &holder.id;
        if self.is_shut_out(holder) {
            let message = format!("{id} was revoked");
            return Err(reason::status(Code::PermissionDenied, Reason::Revoked, message));
        }
        if !self.is_trusted(holder) {
            let message = format!("the CA that has made the certificate of {id} is trusted no more");
            return Err(reason::status(Code::PermissionDenied, Reason::Revoked, message));
        }
        if holder.expires < now {
            let ended = humantime::format_rfc3339_seconds(holder.expires);
            let message = format!("the certificate of {id} ended on {ended}; connect with another one");
            return Err(reason::status(Code::Unauthenticated, Reason::CertificateExpired, message));
        }
        Ok(())
    }

    /// Why a connection has to end.
    pub(crate) fn ends(&self, client: &Client, now: SystemTime) -> Option<EndReason> {
        let Client::Holder(holder) = client else { return None };
        if self.is_shut_out(holder) {
            return Some(EndReason::Revoked);
        }
        if !self.is_trusted(holder) {
            return Some(EndReason::Retired);
        }
        (holder.expires + OVERTIME < now).then_some(EndReason::Expired)
    }
}

/// Ends the connections that have to.
pub(crate) fn end_who_is_out(shared: &Shared, now: SystemTime) {
    for link in shared.registry.links() {
        if let Some(reason) = shared.keeper.ends(&link.client, now) {
            shared.audit.denied(&link, "stay connected", &reason.to_string());
            link.end(reason);
        }
    }
}

/// Ends connections that are open when their node is shut out or their CA is trusted no more, or that outlive their
/// certificates.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut revisions = shared.clerk.revisions();
    let mut trust = shared.signer.pki().changes();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        let is_time = tokio::select! {
            _ = look.tick() => true,
            Ok(()) = trust.changed() => {
                let trusted: Vec<_> = shared.signer.pki().authority().described().map(|(key, _)| key).collect();
                shared.audit.done(&"the CA's directory", None, "trust", &trusted.join(" "));
                true
            }
            changed = revisions.changed() => match changed {
                Ok(()) => false,
                // The server is ending.
                Err(_) => return,
            },
        };
        if is_time {
            shared.limits.forget();
            shared.audit.forget();
        }
        let changed = Some(shared.clerk.read(crate::ledger::Ledger::members_changed));
        if changed == seen && !is_time {
            continue;
        }
        seen = changed;
        end_who_is_out(&shared, SystemTime::now());
    }
}
