//! A store that the server has opened, and closes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::store::{EtcdStore, SledStore};

/// How long closing the store may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A store of one's own.
#[derive(Debug)]
pub(super) enum Opened {
    Sled(Arc<SledStore>),
    Etcd(Arc<EtcdStore>),
}

impl Opened {
    /// Closes it once the tasks that used it have let go.
    pub(super) async fn close(self) {
        let closed = async {
            match self {
                Self::Sled(store) => alone(store).await.close().await,
                Self::Etcd(store) => alone(store).await.close().await,
            }
        };
        if timeout(CLOSING, closed).await.is_err() {
            warn!("the store is still busy; the end of the process closes it");
        }
    }
}

async fn alone<S>(mut store: Arc<S>) -> S {
    loop {
        match Arc::try_unwrap(store) {
            Ok(store) => return store,
            Err(used) => store = used,
        }
        sleep(Duration::from_millis(1)).await;
    }
}
