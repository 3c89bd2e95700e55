//! Who is let in though its certificate is good by itself: no node that was shut out, and nobody whose certificate has
//! ended since.
//!
//! ```text
//! handshake ─▶ Keeper ──┐
//! call ─▶ check ────────┼─▶ identity epoch in the ledger, time
//! open connections ─────┘     looked at after every change of it
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_proto::reason::{self, Reason};
use loden_transport::{Gate, Holder, Role, SpiffeId};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Code, Status};

use crate::clerk::ClerkHandle;
use crate::registry::{Client, EndReason, Link};
use crate::service::Shared;

/// How long a connection may outlive its certificate: clients that renew theirs are gone long before.
const OVERTIME: Duration = Duration::from_secs(3600);
/// How often it is looked for connections that have.
const LOOK: Duration = Duration::from_secs(60);

/// Looks at whoever does a handshake.
pub(crate) struct Keeper(pub(crate) ClerkHandle);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

impl Gate for Keeper {
    fn lets_in(&self, holder: &Holder) -> bool {
        !is_shut_out(&self.0, holder)
    }
}

fn is_shut_out(clerk: &ClerkHandle, holder: &Holder) -> bool {
    match &holder.id {
        SpiffeId { role: Role::Node(node), .. } => {
            clerk.read(|ledger| holder.epoch < ledger.identity_epoch(node))
        }
        _ => false,
    }
}

/// Looks at a caller.
///
/// # Errors
/// PERMISSION_DENIED when it was shut out, UNAUTHENTICATED when its certificate has ended.
pub(crate) fn check(clerk: &ClerkHandle, holder: &Holder, now: SystemTime) -> Result<(), Status> {
    let id = &holder.id;
    if is_shut_out(clerk, holder) {
        let message = format!("{id} was revoked");
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
fn ends(clerk: &ClerkHandle, link: &Link, now: SystemTime) -> Option<EndReason> {
    let Client::Holder(holder) = &link.client else { return None };
    if is_shut_out(clerk, holder) {
        return Some(EndReason::Revoked);
    }
    (holder.expires + OVERTIME < now).then_some(EndReason::Expired)
}

/// Ends connections that are open when their node is shut out, or that outlive their certificates.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut revisions = shared.clerk.revisions();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        let is_time = tokio::select! {
            _ = look.tick() => true,
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
        let now = SystemTime::now();
        for link in shared.registry.links() {
            if let Some(reason) = ends(&shared.clerk, &link, now) {
                shared.audit.denied(&link.client, "stay connected", &reason.to_string());
                link.end(reason);
            }
        }
    }
}
