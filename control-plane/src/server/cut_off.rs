//! Letting clients go of a replica that cannot reach its store: the others may.
//!
//! ```text
//! the store is away ─▶ not ready: nobody new comes ─▶ 15 s ─▶ whoever is here is asked to go, over 30 s
//! ```
//!
//! Each is asked once for each time that the store is away. Where all replicas are cut off, who comes back stays: what
//! was known is served, and there is nothing better.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::registry::Parting;
use crate::service::Shared;
use crate::store::Health;

/// How long an etcd may be away that elects, or is started again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Over what time clients are asked to go.
const OVER: Duration = Duration::from_secs(30);

/// Runs as long as the server.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut health = shared.clerk.store_health();
    while health.wait_for(is_away).await.is_ok() {
        if stays_away_for(&mut health, PATIENCE).await {
            let links: Vec<_> = shared.registry.nodes().iter().map(Arc::downgrade).collect();
            warn!(
                clients = links.len(),
                "the store cannot be reached: clients are asked to go to another replica"
            );
            let apart = OVER / u32::try_from(links.len()).unwrap_or(u32::MAX).max(1);
            for link in links.iter().map(Weak::upgrade) {
                if !is_away(&health.borrow()) {
                    break;
                }
                if let Some(link) = link {
                    link.drain(Parting::CutOff);
                }
                sleep(apart).await;
            }
        }
        if health.wait_for(|health| !is_away(health)).await.is_err() {
            return;
        }
    }
}

const fn is_away(health: &Health) -> bool {
    matches!(health, Health::Away { .. })
}

async fn stays_away_for(health: &mut watch::Receiver<Health>, time: Duration) -> bool {
    timeout(time, health.wait_for(|health| !is_away(health))).await.is_err()
}
