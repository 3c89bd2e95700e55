//! Who is left out, since when and why. All of them are looked at, so where they are many that is not done for each change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::status::Failure;

/// More than these are looked at once in a while.
const FEW: usize = 100;
const WHILE: Duration = Duration::from_secs(1);

/// The peers that are left out, as they were looked at last.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    all: Arc<BTreeMap<String, Failure>>,
    looked: Option<Instant>,
    due: Option<Instant>,
}

impl LeftOut {
    /// When they are to be looked at, if somebody wanted to know and was told what was known.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All of them; `look` answers each with why.
    pub(super) fn all(
        &mut self,
        now: Instant,
        look: impl FnOnce() -> BTreeMap<String, String>,
    ) -> Arc<BTreeMap<String, Failure>> {
        let next = self.looked.filter(|_| self.all.len() > FEW).map(|looked| looked + WHILE);
        self.due = next.filter(|next| now < *next);
        if self.due.is_none() {
            self.looked = Some(now);
            let now = SystemTime::now();
            let since = |node: &String| self.all.get(node).map_or(now, |known| known.since);
            let all = look().into_iter().map(|(node, message)| {
                let since = since(&node);
                (node, Failure { message, since })
            });
            let all: BTreeMap<_, _> = all.collect();
            if all != *self.all {
                self.all = Arc::new(all);
            }
        }
        Arc::clone(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(count: usize, why: &str) -> BTreeMap<String, String> {
        (0..count).map(|number| (format!("node-{number}"), why.to_owned())).collect()
    }

    #[test]
    fn few_are_looked_at_each_time_and_keep_their_since() {
        let (mut left_out, now) = (LeftOut::default(), Instant::now());
        let first = left_out.all(now, || named(2, "no route"));
        let second = left_out.all(now, || named(1, "no key"));
        assert_eq!((second["node-0"].message.as_str(), second.len()), ("no key", 1));
        assert_eq!((second["node-0"].since, left_out.due()), (first["node-0"].since, None));
        assert!(left_out.all(now, BTreeMap::new).is_empty());
    }

    #[test]
    fn many_are_looked_at_once_in_a_while() {
        let (mut left_out, now) = (LeftOut::default(), Instant::now());
        let first = left_out.all(now, || named(FEW + 1, "no route"));
        let again = left_out.all(now, || unreachable!("it is too soon"));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(left_out.due(), Some(now + WHILE));
        let same = left_out.all(now + WHILE, || named(FEW + 1, "no route"));
        assert!(Arc::ptr_eq(&first, &same), "nobody has to compare them");
        assert_eq!(left_out.due(), None);
        assert!(left_out.all(now + WHILE * 2, BTreeMap::new).is_empty());
    }
}
