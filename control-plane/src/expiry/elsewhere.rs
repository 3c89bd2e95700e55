//! What the other replicas say of leases that are about to end: their nodes may be connected there.
//!
//! ```text
//!  due ─▶ ask, every 10 s at most ─┬─ somebody has its node ───────────▶ its grace begins anew
//!                                  ├─ nobody has it, twice in a row ───▶ it ends
//!                                  └─ one does not answer ─────────────▶ nothing ends
//! ```
//!
//! Twice, for a node that goes from one replica to another is with none for a moment.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use loden_proto::model::LeaseName;
use tokio::time::Instant;
use tracing::{info, warn};

/// Between two questions.
const AGAIN: Duration = Duration::from_secs(10);

/// The other replicas.
pub trait Others: Send + Sync {
    /// Whether there is none.
    fn is_none(&self) -> bool;

    /// The leases whose nodes stream with any of them.
    ///
    /// # Errors
    /// The names of those that do not say.
    fn streaming(&self) -> impl Future<Output = Result<HashSet<LeaseName>, BTreeSet<String>>> + Send;
}

/// What came of the questions so far.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: Option<Instant>,
    /// Leases, as they were last changed, whose nodes nobody had when it was last asked.
    absent: HashSet<(LeaseName, u64)>,
    /// Who did not answer then.
    silent: BTreeSet<String>,
}

/// What becomes of leases whose time has passed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// To end.
    pub(super) expire: Vec<(LeaseName, u64)>,
    /// Their nodes are with other replicas.
    pub(super) alive: Vec<LeaseName>,
}

impl Questions {
    /// Asks for leases that are due, unless that was just done.
    pub(super) async fn ask(&mut self, others: &impl Others, due: Vec<(LeaseName, u64)>) -> Verdict {
        if due.is_empty() || !self.is_time(Instant::now()) {
            return Verdict::default();
        }
        let answer = others.streaming().await;
        self.answered(due, answer, Instant::now())
    }

    fn is_time(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= AGAIN)
    }

    fn answered(
        &mut self,
        due: Vec<(LeaseName, u64)>,
        answer: Result<HashSet<LeaseName>, BTreeSet<String>>,
        now: Instant,
    ) -> Verdict {
        self.asked = Some(now);
        let absent = std::mem::take(&mut self.absent);
        let streaming = match answer {
            Ok(streaming) => streaming,
            Err(silent) => {
                self.note_silent(silent);
                return Verdict::default();
            }
        };
        self.note_silent(BTreeSet::new());
        let (alive, gone): (Vec<_>, Vec<_>) = due.into_iter().partition(|(name, _)| streaming.contains(name));
        self.absent = gone.iter().cloned().collect();
        let expire = gone.into_iter().filter(|lease| absent.contains(lease)).collect();
        Verdict { expire, alive: alive.into_iter().map(|(name, _)| name).collect() }
    }

    /// Keeps who did not answer, and says so when that is new.
    fn note_silent(&mut self, silent: BTreeSet<String>) {
        if silent == self.silent {
            return;
        }
        if silent.is_empty() {
            info!(
                "all other control planes say again which nodes they have: leases whose time has passed end"
            );
        } else {
            warn!(
                ?silent,
                "leases whose time has passed do not end: their nodes may be connected with control planes that do \
                 not answer"
            );
        }
        self.silent = silent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(node: &str) -> LeaseName {
        LeaseName { network: "blue".parse().unwrap(), node: node.parse().unwrap() }
    }

    fn due(nodes: &[&str]) -> Vec<(LeaseName, u64)> {
        nodes.iter().map(|node| (lease(node), 7)).collect()
    }

    fn with(nodes: &[&str]) -> Result<HashSet<LeaseName>, BTreeSet<String>> {
        Ok(nodes.iter().map(|node| lease(node)).collect())
    }

    fn expire(nodes: &[&str]) -> Verdict {
        Verdict { expire: due(nodes), alive: vec![] }
    }

    #[test]
    fn a_lease_ends_when_nobody_had_its_node_twice_in_a_row() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let alive = Verdict { expire: vec![], alive: vec![lease("b")] };
        assert_eq!(questions.answered(due(&["a", "b"]), with(&["b", "c"]), now), alive);
        assert!(!questions.is_time(now + AGAIN / 2) && questions.is_time(now + AGAIN));
        assert_eq!(questions.answered(due(&["a", "d"]), with(&[]), now), expire(&["a"]));
        assert_eq!(questions.answered(due(&["d"]), with(&["d"]), now).expire, [], "it was on its way");
        assert_eq!(questions.answered(due(&["d"]), with(&[]), now), Verdict::default());
        assert_eq!(questions.answered(due(&["d"]), with(&[]), now), expire(&["d"]));
    }

    #[test]
    fn a_lease_that_was_changed_between_is_another_one() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.answered(vec![(lease("a"), 7)], with(&[]), now);
        assert_eq!(questions.answered(vec![(lease("a"), 8)], with(&[]), now), Verdict::default());
    }

    #[test]
    fn nothing_ends_while_somebody_is_silent() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let silent = || Err(BTreeSet::from(["control-2".to_owned()]));
        questions.answered(due(&["a"]), with(&[]), now);
        assert_eq!(questions.answered(due(&["a"]), silent(), now), Verdict::default());
        assert_eq!(questions.answered(due(&["a"]), with(&[]), now), Verdict::default(), "in a row");
        assert_eq!(questions.answered(due(&["a"]), with(&[]), now), expire(&["a"]));
    }
}
