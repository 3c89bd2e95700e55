//! What this control plane and the others on its store tell each other, through the store.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::housekeeping::note;
use crate::replicas::{Others, Replica};
use crate::service::Shared;
use crate::store::{self, Store};

/// How often the others are told.
const TELL: Duration = Duration::from_secs(1);

/// Tells the others something.
pub(super) type Announce = Box<dyn Fn(Bytes) + Send + Sync>;

/// The others, and the task that hears them.
pub(super) fn hear<S: Store>(store: &S) -> (Others, impl Future<Output = ()> + Send + use<S>) {
    let mut notes = store.others();
    let (tell, others) = watch::channel(read(&notes.borrow_and_update()));
    let hearing = async move {
        while notes.changed().await.is_ok() {
            let heard = read(&notes.borrow_and_update());
            tell.send_if_modified(|known| {
                let changed = *known != heard;
                *known = heard;
                changed
            });
        }
    };
    (others, hearing)
}

/// How a store is told, which is not kept open for it.
pub(super) fn announce<S: Store>(store: &Arc<S>) -> Announce {
    let store: Weak<S> = Arc::downgrade(store);
    Box::new(move |note| {
        if let Some(store) = store.upgrade() {
            store.announce(note);
        }
    })
}

/// Tells the others how this one is. Runs as long as the server.
pub(super) async fn tell(shared: Arc<Shared>, address: Option<String>, announce: Announce) {
    let mut tell = interval(TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tell.tick().await;
        match serde_json::to_vec(&note(&shared, address.clone())) {
            Ok(note) => announce(note.into()),
            Err(error) => warn!(%error, "the other control planes cannot be told of this one"),
        }
    }
}

/// What others say. One of another version that is not understood is not counted.
fn read(notes: &store::Others) -> Arc<[Replica]> {
    let replica = |(name, note): (&String, &Bytes)| {
        Some(Replica { name: name.clone(), note: serde_json::from_slice(note).ok()? })
    };
    notes.iter().filter_map(replica).collect()
}
