//! Applies what was committed, in order, and tells the watchers before anybody is answered.

use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::StreamExt;
use loden_proto::model::LeaseName;
use tokio::sync::watch;

use super::{ClerkError, publication, scene};
use crate::feed::Feeds;
use crate::ledger::{Applied, Corrupt, Ledger, PeerChange};
use crate::store::{Batch, Revision, Store};

/// How many batches that are there together are applied before anybody is told: each telling wakes the desk.
const TOLD_AT_ONCE: usize = 64;

/// Follows the store until it is closed or cannot be followed.
pub(super) async fn run<S: Store>(
    store: Arc<S>,
    committed: Arc<RwLock<Ledger>>,
    feeds: Feeds,
    reached: watch::Sender<Revision>,
) -> ClerkError {
    let mut groups = pin!(store.follow(*reached.borrow()).ready_chunks(TOLD_AT_ONCE));
    while let Some(group) = groups.next().await {
        let mut last = None;
        let followed: Result<(), ClerkError> = group.into_iter().try_for_each(|batch| {
            let batch = batch?;
            apply(&batch, &committed, &feeds)?;
            last = Some(batch.revision);
            Ok(())
        });
        if let Some(last) = last {
            reached.send_replace(last);
        }
        if let Err(error) = followed {
            tracing::error!(%error, "the ledger no longer follows the store");
            return error;
        }
    }
    ClerkError::Closed
}

fn apply(batch: &Batch, committed: &RwLock<Ledger>, feeds: &Feeds) -> Result<(), Corrupt> {
    let applied = {
        let mut ledger = committed.write().unwrap_or_else(PoisonError::into_inner);
        let applied = ledger.apply(batch)?;
        visible(&ledger, applied)
    };
    // This task alone writes, so the ledger is still at this batch.
    feeds.publish(publication(batch, applied), || {
        scene(&committed.read().unwrap_or_else(PoisonError::into_inner))
    });
    Ok(())
}

/// Takes out the peers that nobody may see yet: during adoption those whose nodes have not come back.
fn visible(ledger: &Ledger, mut applied: Applied) -> Applied {
    let Some(cluster) = ledger.cluster().filter(|cluster| cluster.adopt_until.is_some()) else {
        return applied;
    };
    applied.peers.retain(|(network, change)| match change {
        PeerChange::Removed(_) => true,
        PeerChange::Upsert(peer) => {
            let name = LeaseName { network: network.clone(), node: peer.node.clone() };
            ledger.lease(&name).is_some_and(|lease| lease.incarnation == cluster.incarnation)
        }
    });
    applied
}
