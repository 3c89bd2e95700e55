//! Letting clients go: told one after the other, so that they do not all come back at once.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::registry::{EndReason, Registry};
use crate::service::{Shared, draining};

/// Time between two clients that are told, unless there are so many that it would take too long.
const APART: Duration = Duration::from_micros(500);
/// How long it takes at most until all have been told.
const TELLING: Duration = Duration::from_secs(2);
/// Clients told in one go.
const BURST: usize = 20;
/// How long told clients may still take.
const GRACE: Duration = Duration::from_secs(2);

/// Ends all connections: GOAWAY, then their watches with UNAVAILABLE, then a reset for those that stay.
pub(super) async fn drain(shared: &Shared, registry: &Registry, connections: &TaskTracker) {
    let links = registry.begin_drain();
    let mut watches = shared.watches.by_link();
    let apart = pause(links.len());
    for (index, link) in links.iter().filter_map(Weak::upgrade).enumerate() {
        if index > 0 && index % BURST == 0 {
            sleep(apart * BURST as u32).await;
        }
        link.drain();
        for watch in watches.remove(&link.number()).unwrap_or_default() {
            watch.end(draining());
        }
    }
    // Opened since.
    for watch in shared.watches.by_link().into_values().flatten() {
        watch.end(draining());
    }
    connections.close();
    if timeout(GRACE, connections.wait()).await.is_err() {
        warn!(
            connections = registry.len(),
            "clients have not gone by themselves; their connections are reset"
        );
        registry.end_all(&EndReason::Drained);
        connections.wait().await;
    }
    info!(clients = links.len(), "drained");
}

/// Time between two of `clients`.
fn pause(clients: usize) -> Duration {
    let clients = u32::try_from(clients.max(1)).unwrap_or(u32::MAX);
    APART.min(TELLING / clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_everybody_takes_no_longer_than_allowed() {
        for clients in [0_u32, 1, 19, 1000, 100_000] {
            assert!(pause(clients as usize) * clients <= TELLING, "{clients}");
        }
        assert_eq!(pause(10), APART);
    }
}
