//! How much is measured: enough for figures, or just enough to see that it works.

use std::time::Duration;

/// The size of a benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scale {
    quick: bool,
    /// Whole agents of `fanout`.
    pub agents: usize,
    /// Followers of `fanout`, and watchers of etcd beside them.
    pub followers: usize,
}

impl Scale {
    /// For figures.
    #[must_use]
    pub const fn full() -> Self {
        Self { quick: false, agents: 1000, followers: 10_000 }
    }

    /// To see that everything runs; the figures mean nothing.
    #[must_use]
    pub const fn quick() -> Self {
        Self { quick: true, agents: 20, followers: 40 }
    }

    /// Runs of something that takes less than five seconds.
    #[must_use]
    pub const fn runs(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// Runs of something that takes longer.
    #[must_use]
    pub const fn long_runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// Runs of something that neighbours on the machine disturb: many short ones by turns.
    #[must_use]
    pub const fn many_runs(&self) -> usize {
        if self.quick { 1 } else { 9 }
    }

    /// How long a rate is measured in one run.
    #[must_use]
    pub const fn slice(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 1000 })
    }

    /// Slices of each state of a comparison within one flow.
    #[must_use]
    pub const fn toggles(&self, full: usize) -> usize {
        if self.quick { 1 } else { full }
    }

    /// How long one of those slices is.
    #[must_use]
    pub const fn toggle(&self) -> Duration {
        Duration::from_millis(if self.quick { 20 } else { 250 })
    }

    /// Hosts with a real agent each.
    #[must_use]
    pub const fn hosts(&self) -> usize {
        if self.quick { 3 } else { 32 }
    }

    /// Nodes that come and go beside them.
    #[must_use]
    pub const fn tenants(&self) -> u16 {
        if self.quick { 12 } else { 64 }
    }

    /// How long things go wrong.
    #[must_use]
    pub const fn chaos(&self) -> Duration {
        Duration::from_secs(if self.quick { 8 } else { 240 })
    }

    /// Changes that are each waited for.
    #[must_use]
    pub const fn changes(&self) -> usize {
        if self.quick { 1 } else { 20 }
    }

    /// The pause before each of them: a server puts off what comes soon after a change that took it long to tell
    /// everybody, by a second at most, and here none is to wait for another.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 1200 })
    }

    /// Changes that are not waited for.
    #[must_use]
    pub const fn steady_changes(&self) -> u16 {
        if self.quick { 10 } else { 200 }
    }

    /// How long is waited after a storm until memory is looked at.
    #[must_use]
    pub const fn calm(&self) -> Duration {
        Duration::from_millis(if self.quick { 0 } else { 3000 })
    }

    /// `full` of something, or a hundredth of it.
    #[must_use]
    pub const fn count(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(100) } else { full }
    }
}
