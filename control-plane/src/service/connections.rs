//! Which nodes are connected with any of the replicas, as everybody asks who would do them harm otherwise.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use loden_proto::model::LeaseName;
use loden_proto::names::NodeId;

use super::Shared;
use crate::colleagues::Connections;
use crate::expiry;

impl Shared {
    /// The nodes that are connected with this replica: if one is named, that one alone.
    pub(crate) fn connections_here(&self, only: Option<&NodeId>) -> Connections {
        match only {
            Some(node) => Connections::here_of(&self.registry, &self.streams, node),
            None => Connections::here(&self.registry, &self.streams),
        }
    }

    /// The nodes that are connected with this replica and the others.
    pub(crate) async fn connections(&self) -> Connections {
        self.colleagues.connections(self.connections_here(None), None).await
    }

    /// The same of one node alone.
    pub(crate) async fn connections_of(&self, node: &NodeId) -> Connections {
        self.colleagues.connections(self.connections_here(Some(node)), Some(node)).await
    }
}

impl expiry::Others for Arc<Shared> {
    fn is_none(&self) -> bool {
        self.others.borrow().is_empty()
    }

    async fn streaming(&self) -> Result<HashSet<LeaseName>, BTreeSet<String>> {
        self.connections().await.streaming()
    }
}
