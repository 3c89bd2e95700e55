//! Which nodes are connected with any of the replicas, as everybody asks who would do them harm otherwise.

use super::Shared;
use crate::colleagues::Connections;

impl Shared {
    /// The nodes that are connected with this replica.
    pub(crate) fn connections_here(&self) -> Connections {
        Connections::here(&self.registry, &self.streams)
    }

    /// The nodes that are connected with this replica and the others.
    pub(crate) async fn connections(&self) -> Connections {
        self.colleagues.connections(self.connections_here()).await
    }
}
