//! How a server ends.

use tokio_util::sync::CancellationToken;

use crate::registry::{EndReason, Registry};

/// What ends when the server does, in this order.
#[derive(Debug)]
pub(super) struct Stops {
    pub(super) accepting: CancellationToken,
    pub(super) registry: Registry,
    pub(super) operations: CancellationToken,
}

impl Stops {
    pub(super) fn of(registry: &Registry) -> Self {
        let (accepting, operations) = (CancellationToken::new(), CancellationToken::new());
        Self { accepting, registry: registry.clone(), operations }
    }
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.accepting.cancel();
        // A connection that comes out of its handshake only now ends as well.
        let _ = self.registry.begin_drain();
        self.registry.end_all(&EndReason::Drained);
        self.operations.cancel();
    }
}
