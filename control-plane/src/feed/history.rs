//! What has changed lately in one network, and its folding into one change. Pure.
//!
//! ```text
//!  batch 7: a=1   batch 9: b=1, a gone   batch 12: a=2        fold(7..=12) = a=2, b=1
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use loden_proto::names::NodeId;

use super::token::Point;

/// How much history one network keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HistoryLimits {
    /// Most bytes of entries and names.
    pub bytes: usize,
    /// Most changes of peers.
    pub steps: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { bytes: 8 << 20, steps: 1 << 16 }
    }
}

/// What one batch did to one peer.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) node: NodeId,
    pub(super) before: Before,
    /// The new entry; `None` if the peer is gone.
    pub(super) after: Option<Bytes>,
}

/// A peer before a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Before {
    /// History read back after a restart does not say.
    Unknown,
    Absent,
    Entry(Bytes),
}

/// One batch as far as this network is concerned.
#[derive(Clone, Debug)]
struct Change {
    point: Point,
    steps: Vec<Step>,
    /// The network's new record, if that changed.
    network: Option<Bytes>,
}

/// Recent changes, oldest first.
#[derive(Clone, Debug)]
pub(super) struct History {
    changes: VecDeque<Change>,
    limits: HistoryLimits,
    bytes: usize,
    steps: usize,
    floor: u64,
}

/// Many changes as one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fold {
    /// What each changed peer has become; `None` is gone.
    pub(super) peers: BTreeMap<NodeId, Option<Bytes>>,
    /// The network's record, if that changed.
    pub(super) network: Option<Bytes>,
}

impl History {
    /// Nothing yet. Whoever has followed at least to `floor` has missed nothing.
    pub(super) const fn new(floor: u64, limits: HistoryLimits) -> Self {
        Self { changes: VecDeque::new(), limits, bytes: 0, steps: 0, floor }
    }

    /// Forgets everything: what comes does not follow from what was.
    pub(super) fn restart(&mut self, floor: u64) {
        *self = Self::new(floor, self.limits);
    }

    /// The oldest revision from which [`History::fold`] misses nothing.
    pub(super) const fn floor(&self) -> u64 {
        self.floor
    }

    /// Where the newest change is, if any is known.
    pub(super) fn newest(&self) -> Option<Point> {
        self.changes.back().map(|change| change.point)
    }

    /// Adds a batch, and forgets the oldest ones beyond the limits.
    pub(super) fn push(&mut self, point: Point, steps: Vec<Step>, network: Option<Bytes>) {
        if steps.is_empty() && network.is_none() {
            return;
        }
        let change = Change { point, steps, network };
        self.bytes += change.bytes();
        self.steps += change.steps.len();
        self.changes.push_back(change);
        while (self.bytes > self.limits.bytes || self.steps > self.limits.steps)
            && let Some(oldest) = self.changes.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.steps -= oldest.steps.len();
            self.floor = oldest.point.revision;
        }
    }

    /// The revision of the first change after `revision`: equal for all positions that fold alike.
    pub(super) fn first_after(&self, revision: u64) -> Option<u64> {
        let index = self.changes.partition_point(|change| change.point.revision <= revision);
        self.changes.get(index).map(|change| change.point.revision)
    }

    /// What takes a peer set from `after` to `upto`; the last change of a peer wins, and what came back to
    /// where it was is no change.
    pub(super) fn fold(&self, after: u64, upto: u64) -> Fold {
        let start = self.changes.partition_point(|change| change.point.revision <= after);
        let mut first: BTreeMap<&NodeId, (&Before, &Option<Bytes>)> = BTreeMap::new();
        let mut network = None;
        for change in self.changes.range(start..).take_while(|change| change.point.revision <= upto) {
            network = change.network.as_ref().or(network);
            for step in &change.steps {
                first
                    .entry(&step.node)
                    .and_modify(|(_, last)| *last = &step.after)
                    .or_insert((&step.before, &step.after));
            }
        }
        let changed = first.into_iter().filter(|(_, (before, after))| match before {
            Before::Unknown => true,
            Before::Absent => after.is_some(),
            Before::Entry(entry) => after.as_ref() != Some(entry),
        });
        Fold {
            peers: changed.map(|(node, (_, after))| (node.clone(), after.clone())).collect(),
            network: network.cloned(),
        }
    }
}

impl Change {
    /// What it weighs: the entries that it keeps alive, names, and what surrounds them.
    fn bytes(&self) -> usize {
        let overhead = size_of::<Self>() + self.network.as_ref().map_or(0, Bytes::len);
        self.steps.iter().fold(overhead, |sum, step| {
            let before = if let Before::Entry(entry) = &step.before { entry.len() } else { 0 };
            let after = step.after.as_ref().map_or(0, Bytes::len);
            sum + size_of::<Step>() + step.node.as_str().len() + before + after
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(revision: u64) -> Point {
        Point { revision, hash: revision }
    }

    fn entry(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn step(node: &str, before: Before, after: Option<&'static str>) -> Step {
        Step { node: node.parse().unwrap(), before, after: after.map(entry) }
    }

    fn folded(history: &History, after: u64, upto: u64) -> Vec<(String, Option<Bytes>)> {
        let fold = history.fold(after, upto);
        fold.peers.into_iter().map(|(node, entry)| (node.to_string(), entry)).collect()
    }

    #[test]
    fn the_last_change_wins_and_what_came_to_nothing_is_dropped() {
        let mut history = History::new(0, HistoryLimits::default());
        history.push(point(1), vec![step("a", Before::Absent, Some("a1"))], None);
        history.push(point(2), vec![step("b", Before::Absent, Some("b1"))], None);
        history.push(point(4), vec![step("a", Before::Entry(entry("a1")), Some("a2"))], None);
        history.push(point(5), vec![step("b", Before::Entry(entry("b1")), None)], Some(entry("network")));
        history.push(point(6), vec![step("a", Before::Entry(entry("a2")), Some("a1"))], None);
        let a = |text| ("a".to_owned(), Some(entry(text)));
        assert_eq!(folded(&history, 0, 4), [a("a2"), ("b".to_owned(), Some(entry("b1")))]);
        assert_eq!(folded(&history, 0, 6), [a("a1")], "b came and went");
        assert_eq!(folded(&history, 1, 6), [], "a came back to where it was");
        assert_eq!(folded(&history, 4, 5), [("b".to_owned(), None)]);
        assert_eq!(folded(&history, 6, 6), []);
        assert_eq!((history.fold(4, 5).network, history.fold(5, 6).network), (Some(entry("network")), None));
        assert_eq!((history.first_after(2), history.first_after(3)), (Some(4), Some(4)));
        assert_eq!(history.first_after(6), None);
    }

    #[test]
    fn the_oldest_goes_beyond_the_limit_and_raises_the_floor() {
        let mut history = History::new(0, HistoryLimits { bytes: 1 << 20, steps: 2 });
        for revision in [3, 5, 8] {
            history.push(point(revision), vec![step("a", Before::Unknown, Some("a"))], None);
        }
        assert_eq!(history.floor(), 3);
        let mut history = History::new(0, HistoryLimits { bytes: 1, steps: 9 });
        history.push(point(4), vec![step("a", Before::Unknown, Some("a"))], None);
        assert_eq!((history.floor(), history.first_after(0)), (4, None));
    }
}
