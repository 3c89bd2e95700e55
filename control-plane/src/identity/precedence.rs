//! Which of two copies of the CA is used: the one that is shared, or the one in a control plane's directory. Pure.
//!
//! ```text
//!  key of tokens    changes            used
//!  the same         more here     ─▶   the one here: an older one was put back, or this one was changed by hand
//!  the same         else          ─▶   the one that is shared
//!  another          unproven here ─▶   the one that is shared: of several first starts one was first
//!  another          else          ─▶   neither, before somebody decides
//! ```
//!
//! The key of tokens is made once in the life of a cluster and goes along with its CAs, so it tells whose they are.

use super::{CA_CERTIFICATE, Files, TOKEN_KEY, UNPROVEN, changes};

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
        if changes::of(here) > changes::of(shared) { Self::Here } else { Self::Shared }
    }
}

#[cfg(test)]
mod tests {
    use super::super::changes::CHANGES;
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
