//! What senders have to show to this node's UDP tunnel in a network.
//!
//! ```text
//!  new key ─▶ disk ─▶ tunnel takes both ─▶ told to the peers ─▶ … ─▶ the old one is taken no more
//! ```

use std::time::{Duration, SystemTime};

use loden_proto::model::Key;
use serde::{Deserialize, Serialize};

/// How long a key is shown. It is taken for as long again: peers that the control plane cannot reach do not know a
/// newer one.
const SHOWN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The present key and the one before.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Keys {
    present: Key,
    before: Option<Key>,
    since: SystemTime,
}

impl Keys {
    /// The first one.
    #[must_use]
    pub const fn new(key: Key, now: SystemTime) -> Self {
        Self { present: key, before: None, since: now }
    }

    /// Whether it is time for another one. A clock that was set back is no reason to wait longer.
    #[must_use]
    pub fn is_old(&self, now: SystemTime) -> bool {
        now.duration_since(self.since).map_or(true, |age| age >= SHOWN)
    }

    /// With another one, which everybody is shown from now on.
    #[must_use]
    pub const fn turned(&self, key: Key, now: SystemTime) -> Self {
        Self { present: key, before: Some(self.present), since: now }
    }

    /// Those that are taken, the present one first.
    #[must_use]
    pub fn all(&self) -> Vec<Key> {
        [self.present].into_iter().chain(self.before).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_for_a_week_and_taken_for_two() {
        let key = |number: u64| Key::try_from(number).unwrap();
        let start = SystemTime::UNIX_EPOCH + SHOWN;
        let first = Keys::new(key(1), start);
        assert!(!first.is_old(start) && !first.is_old(start + SHOWN - Duration::from_secs(1)));
        assert!(first.is_old(start + SHOWN));
        assert!(first.is_old(start - Duration::from_secs(1)), "the clock was set back");
        let second = first.turned(key(2), start + SHOWN);
        assert_eq!(second.all(), [key(2), key(1)]);
        assert_eq!(second.turned(key(3), start + 2 * SHOWN).all(), [key(3), key(2)]);
    }
}
