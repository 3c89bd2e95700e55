//! How long it took until all was well again, each time, and whether that is what is promised.
//!
//! A second is promised, on a machine that does nothing else; tests share theirs. So half of all repairs are
//! held to the second, and each to what only something that waits for no event would need.

use std::time::Duration;

use anyhow::{Context, ensure};

/// What half of them take at most.
const MEDIAN: Duration = Duration::from_secs(1);
/// What each takes at most.
const EACH: Duration = Duration::from_secs(5);

/// Repairs of one kind of thing.
#[derive(Clone, Debug, Default)]
pub struct Repairs(Vec<(Duration, String)>);

impl Repairs {
    /// How long to wait for one: longer than any may take, so that it is measured.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Notes one.
    pub fn note(&mut self, what: impl Into<String>, took: Duration) {
        self.0.push((took, what.into()));
    }

    /// Takes over those of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Prints how long they took.
    ///
    /// # Errors
    /// When half of them took more than a second, one took more than five, or there was none.
    pub fn are_prompt(mut self, of: &str) -> anyhow::Result<()> {
        self.0.sort();
        let at = |part: usize| self.0[(self.0.len() - 1) * part / 100].0;
        let (last, slowest) = self.0.last().with_context(|| format!("{of}: nothing was repaired"))?;
        let told = format!(
            "{of}: {} repairs, p50 {:.0?}, p99 {:.0?}, max {last:.0?} ({slowest})",
            self.0.len(),
            at(50),
            at(99)
        );
        println!("{told}");
        ensure!(at(50) <= MEDIAN, "{told}: half of them may take {MEDIAN:?}");
        ensure!(*last <= EACH, "{told}: each may take {EACH:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(millis: &[u64]) -> Result<(), String> {
        let mut repairs = Repairs::default();
        for took in millis {
            repairs.note(format!("{took}"), Duration::from_millis(*took));
        }
        repairs.are_prompt("a test").map_err(|error| error.to_string())
    }

    #[test]
    fn half_are_held_to_a_second_and_each_to_five() {
        assert_eq!(judged(&[1, 1000, 5000]), Ok(()));
        let slow = judged(&[1, 1001, 1002]).unwrap_err();
        assert!(slow.contains("3 repairs, p50 1s") && slow.contains("half of them"), "{slow}");
        let one = judged(&[1, 2, 5001]).unwrap_err();
        assert!(one.contains("(5001): each may take 5s"), "{one}");
        assert!(judged(&[]).is_err());
    }
}
