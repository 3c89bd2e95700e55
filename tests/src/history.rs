//! Whether what a cluster has told its clients can be true: pure, from calls and looks alone.
//!
//! ```text
//!  clients ── calls: begin, end, done | refused | unknown ──┐
//!                                                           ├─▶ History ─▶ violations, or none
//!  lists of each replica, with their revisions ─────────────┘
//! ```
//!
//! A call without an answer may be done at any time after it began, or never: whoever resends it, and whoever was
//! stopped with it in hand for a minute, does it late. What is certain is what was answered, and what was not asked for.
//!
//! | rule | file |
//! |---|---|
//! | no subnet and no VNI belongs to two | `holders.rs` |
//! | what is answered of one thing fits together: epochs only go up, what is there stays as it is | `order.rs` |
//! | lists fit together: of one revision they are the same, of a later one nothing is gone that nobody has ended | `looks.rs` |
//! | the last lists have what was acknowledged, and nothing that nobody has asked for | `last.rs` |
//!
//! Leases must live longer than the history, so that none expires, and who has a lease must not be given a reservation
//! of other subnets meanwhile.

mod event;
mod holders;
mod last;
mod looks;
mod order;
mod recorder;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use event::{Call, Held, Look, Outcome, Scope, Slot, Thing, Wish};
pub use recorder::Recorder;

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The calls, in any order.
    pub calls: Vec<Call>,
    /// The lists, in any order.
    pub looks: Vec<Look>,
    /// Leases of nodes whose calls are not in the history. They were there before it, and stay as they are.
    pub bystanders: BTreeSet<Thing>,
}

/// What must hold.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// What only one can have belongs to one.
    OneHolder,
    /// An epoch is never followed by a lower one, nor by itself once it was given back.
    EpochsGoUp,
    /// What is there stays as it is until somebody ends it.
    StaysAsItIs,
    /// Two lists of one revision are the same.
    OneContent,
    /// What a replica tells is never older than what it has told before.
    NeverOlder,
    /// A later revision lacks only what somebody has ended.
    EndsByCall,
    /// What is there was asked for.
    AskedFor,
    /// What was acknowledged is there in the end.
    NothingLost,
}

/// A rule that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// How, for people.
    pub told: String,
}

impl Violation {
    fn new(rule: Rule, told: String) -> Self {
        Self { rule, told }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.told)
    }
}

impl History {
    /// All violations; none if all of it can be true.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let calls = self.calls_by_thing();
        let mut violations = holders::check(self, &calls);
        for calls in calls.values() {
            violations.extend(order::check(calls));
        }
        violations.extend(looks::check(self, &calls));
        violations.extend(last::check(self, &calls));
        violations
    }

    /// How many calls were answered that they were done.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.calls.iter().filter(|call| call.result().is_some()).count()
    }

    /// How many calls nobody has answered.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.calls.iter().filter(|call| call.outcome == Outcome::Unknown).count()
    }

    /// The calls of each thing, in the order in which they began.
    fn calls_by_thing(&self) -> Calls<'_> {
        let mut calls = Calls::new();
        for call in &self.calls {
            calls.entry(&call.thing).or_default().push(call);
        }
        for calls in calls.values_mut() {
            calls.sort_by_key(|call| call.begin);
        }
        calls
    }
}

/// The calls of each thing, in the order in which they began.
type Calls<'a> = BTreeMap<&'a Thing, Vec<&'a Call>>;
