//! How often the CA was changed: of two copies of one CA, the one that was changed more often is the later one.
//!
//! `changes` has the number, and the trust generation that was counted last. A CA of another generation was changed since
//! then: by a step that was cut off before it was counted, or by somebody who has put another one there.

use std::path::Path;

use super::{Files, PkiError, file, rotation};

pub(super) const CHANGES: &str = "changes";
/// How much further copies may have got that nobody sees: what is shared cannot be unsealed, or is an older one, and
/// other control planes have later ones. No CA is changed so often.
const UNSEEN: u64 = 1 << 32;

/// Counts the change to the CA that is in a directory, if it was not counted. One that cannot be used does not count. The
/// caller holds the lock.
pub(super) fn count(directory: &Path) -> Result<(), PkiError> {
    let Ok(authority) = rotation::load(directory) else { return Ok(()) };
    let generation = authority.generation();
    let noted = file::read(&directory.join(CHANGES))?.and_then(|bytes| parse(&bytes));
    match noted {
        Some((_, counted)) if counted == generation => Ok(()),
        noted => write(directory, noted.map_or(0, |(changes, _)| changes).saturating_add(1), generation),
    }
}

/// Has the CA in a directory count as changed more often than another copy, and than any that is not seen. The caller
/// holds the lock.
pub(super) fn count_beyond(directory: &Path, other: &Files) -> Result<(), PkiError> {
    let generation = rotation::load(directory)?.generation();
    let own = file::read(&directory.join(CHANGES))?.and_then(|bytes| parse(&bytes));
    let most = own.map_or(0, |(changes, _)| changes).max(of(other));
    write(directory, most.saturating_add(UNSEEN), generation)
}

/// How often the CA of these files was changed; what cannot be read was never counted.
pub(super) fn of(files: &Files) -> u64 {
    files.get(CHANGES).and_then(|bytes| parse(bytes)).map_or(0, |(changes, _)| changes)
}

fn write(directory: &Path, changes: u64, generation: u32) -> Result<(), PkiError> {
    file::write_private(&directory.join(CHANGES), format!("{changes} {generation:08x}\n").as_bytes())
}

fn parse(bytes: &[u8]) -> Option<(u64, u32)> {
    let (changes, generation) = std::str::from_utf8(bytes).ok()?.trim().split_once(' ')?;
    Some((changes.parse().ok()?, u32::from_str_radix(generation, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::super::{Pki, Step};
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn noted(text: &str) -> Files {
        Files::from([(CHANGES.to_owned(), text.as_bytes().to_vec())])
    }

    fn counted(directory: &Path) -> u64 {
        of(&noted(&fs::read_to_string(directory.join(CHANGES)).unwrap()))
    }

    fn open(directory: &Path) -> Pki {
        Pki::open_or_create(directory, &"loden".parse().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn each_change_counts_once_whoever_makes_it() {
        let state = tempfile::tempdir().unwrap();
        let (own, other) = (state.path().join("own"), state.path().join("other"));
        let (pki, now) = (open(&own), SystemTime::now());
        assert_eq!(counted(&own), 1);
        drop(open(&own));
        pki.refresh(now).unwrap();
        assert_eq!(counted(&own), 1, "nothing was changed");
        for (step, changes) in [(Step::Prepare, 2), (Step::Issue, 3), (Step::Retire, 4)] {
            pki.rotate(step, LIFE, now).unwrap();
            assert_eq!(counted(&own), changes);
        }
        // Somebody puts one there, and somebody else while nobody runs.
        drop(open(&other));
        let put = || {
            fs::create_dir_all(own.join("next")).unwrap();
            for name in ["ca.key", "ca.crt"] {
                fs::copy(other.join(name), own.join("next").join(name)).unwrap();
            }
        };
        put();
        pki.refresh(now).unwrap();
        pki.refresh(now).unwrap();
        assert_eq!(counted(&own), 5);
        drop(pki);
        fs::remove_dir_all(own.join("next")).unwrap();
        drop(open(&own));
        assert_eq!(counted(&own), 6);
        // Half of one is none yet.
        fs::create_dir_all(own.join("next")).unwrap();
        fs::write(own.join("next/ca.crt"), "-----BEGIN CERT").unwrap();
        drop(open(&own));
        assert_eq!(counted(&own), 6);
        put();
        drop(open(&own));
        assert_eq!(counted(&own), 7);
    }

    #[test]
    fn what_cannot_be_read_was_never_counted() {
        for damaged in ["", "7", "7 x", "x 00000001", "-1 00000001"] {
            assert_eq!(of(&noted(damaged)), 0, "{damaged:?}");
        }
        assert_eq!(of(&Files::new()), 0);
        assert_eq!(of(&noted("7 0badcafe\n")), 7);
    }

    #[test]
    fn one_that_is_to_come_first_counts_beyond_the_other_and_those_that_are_not_seen() {
        let state = tempfile::tempdir().unwrap();
        drop(open(state.path()));
        count_beyond(state.path(), &noted("41 00000001")).unwrap();
        assert_eq!(counted(state.path()), 41 + UNSEEN);
        drop(open(state.path()));
        assert_eq!(counted(state.path()), 41 + UNSEEN);
        // What was shared cannot be read, and was another operator's choice.
        count_beyond(state.path(), &Files::new()).unwrap();
        assert_eq!(counted(state.path()), 41 + 2 * UNSEEN);
        count_beyond(state.path(), &noted(&format!("{} 00000001", u64::MAX))).unwrap();
        assert_eq!(counted(state.path()), u64::MAX);
    }
}
