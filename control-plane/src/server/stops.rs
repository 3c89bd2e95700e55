//! How a server ends.

use tokio_util::sync::CancellationToken;

use crate::registry::{EndReason, Parting, Registry};

/// What ends when the server does, in this order.
#[derive(Debug)]
pub(super) struct Stops {
    pub(super) accepting: CancellationToken,
    pub(super) registry: Registry,
    /// All that a server does beside accepting: it goes on while clients are let go.
    pub(super) tasks: CancellationToken,
    pub(super) operations: CancellationToken,
}

impl Stops {
    pub(super) fn of(registry: &Registry) -> Self {
        let token = CancellationToken::new;
        Self { accepting: token(), registry: registry.clone(), tasks: token(), operations: token() }
    }
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.accepting.cancel();
        // A connection that comes out of its handshake only now ends as well.
        let _ = self.registry.begin_drain(Parting::ShutDown { elsewhere: false });
        self.registry.end_all(&EndReason::Drained);
        self.tasks.cancel();
        self.operations.cancel();
    }
}
