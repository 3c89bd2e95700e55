//! Which of two copies of the CA is used: the one that is shared, or the one in a control plane's directory. Pure.
//!
//! ```text
//!  key of tokens    changes                    used
//!  the same         more here             ─▶   the one here: an older one was put back, or this one was changed by hand
//!  the same         not counted in shared ─▶   the one here if nothing else differs, which adds the count
//!  the same         else                  ─▶   the one that is shared
//!  another          unproven here         ─▶   the one that is shared: of several first starts one was first
//!  another          else                  ─▶   neither, before somebody decides
//! ```
//!
//! The key of tokens is made once in the life of a cluster and goes along with its CAs, so it tells whose they are.
//! What is shared is without a count if a version has written it that did not count yet. Then nothing tells which one
//! is later, for each directory has been counted since, also an old one: what all share is believed.

use super::{
    CA_CERTIFICATE, Files, TOKEN_KEY, UNPROVEN,
    changes::{self, CHANGES},
};

/// Which copy is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Precedence {
    /// The one that is shared.
    Shared,
    /// The one in the directory.
    Here,
    /// They are of two clusters, or of two lives of one: taking either would lose the other.
    Neither,
}

impl Precedence {
    /// Of the one that is shared, and the one in a directory.
    #[must_use]
    pub fn between(shared: &Files, here: &Files) -> Self {
        let Some(key) = here.get(TOKEN_KEY).filter(|_| here.contains_key(CA_CERTIFICATE)) else {
            return Self::Shared;
        };
        if shared.get(TOKEN_KEY) != Some(key) {
            return if here.contains_key(UNPROVEN) { Self::Shared } else { Self::Neither };
        }
        let is_comparable = changes::of(shared) > 0 || differ_in_count_only(shared, here);
        if is_comparable && changes::of(here) > changes::of(shared) { Self::Here } else { Self::Shared }
    }
}

fn differ_in_count_only(one: &Files, other: &Files) -> bool {
    let uncounted = |files: &Files| {
        let mut files = files.clone();
        files.remove(CHANGES);
        files
    };
    uncounted(one) == uncounted(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(key: u8, changes: u64) -> Files {
        [
            (TOKEN_KEY.to_owned(), vec![key; 32]),
            (CA_CERTIFICATE.to_owned(), b"a certificate".to_vec()),
            (CHANGES.to_owned(), format!("{changes} 00000001").into_bytes()),
        ]
        .into()
    }

    #[test]
    fn of_one_life_the_later_one_is_used_and_of_two_neither() {
        let shared = files(1, 3);
        for (here, used) in [
            (files(1, 4), Precedence::Here),
            (files(1, 3), Precedence::Shared),
            (files(1, 2), Precedence::Shared),
            (files(2, 2), Precedence::Neither),
            (files(2, 9), Precedence::Neither),
            (Files::new(), Precedence::Shared),
        ] {
            assert_eq!(Precedence::between(&shared, &here), used, "{here:?}");
        }
    }

    #[test]
    fn of_what_was_shared_without_a_count_none_is_later_and_an_equal_one_adds_it() {
        let mut uncounted = files(1, 3);
        uncounted.remove(CHANGES);
        let mut unreadable = files(1, 3);
        unreadable.insert(CHANGES.to_owned(), b"many".to_vec());
        let mut stale = files(1, 9);
        stale.insert(CA_CERTIFICATE.to_owned(), b"the certificate of before".to_vec());
        let mut unproven = files(1, 1);
        unproven.insert(UNPROVEN.to_owned(), Vec::new());
        for shared in [&uncounted, &unreadable] {
            assert_eq!(Precedence::between(shared, &files(1, 1)), Precedence::Here);
            assert_eq!(Precedence::between(shared, &stale), Precedence::Shared);
            assert_eq!(Precedence::between(shared, &unproven), Precedence::Shared);
            assert_eq!(Precedence::between(shared, &uncounted), Precedence::Shared, "neither has any");
            assert_eq!(Precedence::between(shared, &files(2, 1)), Precedence::Neither);
        }
        assert_eq!(Precedence::between(&files(1, 3), &stale), Precedence::Here, "both are counted");
    }

    #[test]
    fn what_is_not_whole_or_was_just_made_gives_way() {
        let shared = files(1, 3);
        for missing in [TOKEN_KEY, CA_CERTIFICATE] {
            let mut here = files(2, 9);
            here.remove(missing);
            assert_eq!(Precedence::between(&shared, &here), Precedence::Shared, "without {missing}");
        }
        let mut here = files(2, 9);
        here.insert(UNPROVEN.to_owned(), Vec::new());
        assert_eq!(Precedence::between(&shared, &here), Precedence::Shared);
    }
}
