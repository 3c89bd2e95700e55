//! About which nodes the other replicas are being asked: about each once at a time, however often its certificate calls.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use loden_proto::names::NodeId;

/// The nodes that are asked about right now.
#[derive(Debug, Default)]
pub(crate) struct Inquiries {
    nodes: Mutex<HashSet<NodeId>>,
}

/// A question that is under way as long as this lives.
#[derive(Debug)]
pub(super) struct Inquiry<'a> {
    of: &'a Inquiries,
    node: &'a NodeId,
}

impl Inquiries {
    /// Begins to ask about a node; `None` while that is under way already.
    pub(super) fn begin<'a>(&'a self, node: &'a NodeId) -> Option<Inquiry<'a>> {
        if !self.nodes().insert(node.clone()) {
            return None;
        }
        Some(Inquiry { of: self, node })
    }

    /// A panic elsewhere leaves the set whole.
    fn nodes(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inquiry<'_> {
    fn drop(&mut self) {
        self.of.nodes().remove(self.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_node_there_is_one_question_at_a_time_and_others_do_not_wait_for_it() {
        let inquiries = Inquiries::default();
        let [a, b] = ["a", "b"].map(|node| node.parse::<NodeId>().unwrap());
        let first = inquiries.begin(&a).unwrap();
        assert!(inquiries.begin(&a).is_none(), "a refused one ends nothing");
        assert!(inquiries.begin(&a).is_none() && inquiries.begin(&b).is_some());
        drop(first);
        assert!(inquiries.begin(&a).is_some());
    }
}
