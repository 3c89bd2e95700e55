//! Networks that this agent knows of and cannot run. Their lease and peers are followed and kept, so that a newer agent
//! begins where this one ends.

use loden_datapath::{Datapath, Host};
use loden_proto::model::Backend;

use super::Reconcile;

impl<D: Datapath + Host> Reconcile<D> {
    /// Why nothing of the network can be programmed, whatever the host is like.
    pub(super) fn unsupported(&self) -> Option<String> {
        let (_, network) = self.lease.as_ref()?;
        let backend = network.backend;
        matches!(backend, Backend::Udp(_)).then(|| {
            let version = env!("CARGO_PKG_VERSION");
            format!(
                "UNSUPPORTED_BACKEND: the backend of the network is {backend}, which this agent (version {version}) \
                 cannot run; nothing is programmed until a newer one is installed"
            )
        })
    }
}
