//! From one CA to the next: what is where, and how it changes so that a start that was cut off goes on.
//!
//! ```text
//!  steady             ca.key ca.crt
//!  ── prepare ──▶     ca.key ca.crt                          next/ca.key next/ca.crt
//!  ── issue ────▶     ca.key ca.crt (those of next)          previous.crt cross.crt previous.until
//!  ── retire ───▶     ca.key ca.crt
//! ```
//!
//! `next/switch` says that a switch was begun: it is done again from `next/`, by whoever holds the lock. All others only
//! read, and take what is in `next/` for what issues. A CA before or after the present one that has its key is none: it
//! is what a step that was cut off has left, and goes with the next one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::authority::Phase;
use super::{Authority, AuthorityError, CA_CERTIFICATE, CA_KEY, PkiError, file, lifetime};

pub(super) const NEXT: &str = "next";
pub(super) const PREVIOUS: &str = "previous.crt";
pub(super) const CROSS: &str = "cross.crt";
const SWITCH: &str = "switch";

/// What is done next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Makes the next CA, for everybody to trust.
    Prepare,
    /// Has it issue.
    Issue,
    /// Forgets the one of before.
    Retire,
}

impl Step {
    /// In which phase it can be done.
    #[must_use]
    pub const fn from(self) -> Phase {
        match self {
            Self::Prepare => Phase::Steady,
            Self::Issue => Phase::Prepared,
            Self::Retire => Phase::Issuing,
        }
    }
}

/// The CA in a directory, which must be there, with the one that is trusted beside it.
pub(super) fn load(directory: &Path) -> Result<Authority, PkiError> {
    let next = directory.join(NEXT);
    let is_begun = file::read(&next.join(SWITCH))?.is_some();
    let authority = pair(if is_begun { &next } else { directory })?;
    if let Some(previous) = other(&authority, &directory.join(PREVIOUS))? {
        let cross = file::read_text(&directory.join(CROSS))?;
        return Ok(authority.beside(Phase::Issuing, previous, cross));
    }
    match other(&authority, &next.join(CA_CERTIFICATE))? {
        Some(next) => Ok(authority.beside(Phase::Prepared, next, None)),
        None => Ok(authority),
    }
}

/// Does a step; what is there now must allow it. `life`: of the certificates that are made.
pub(super) fn step(
    directory: &Path,
    now: &Authority,
    step: Step,
    life: Duration,
    time: SystemTime,
) -> Result<(), PkiError> {
    let next = directory.join(NEXT);
    match step {
        Step::Prepare => {
            file::create_private_directory(&next)?;
            let key = Authority::new_key()?;
            // The certificate last: with it the next CA is there.
            file::write_private(&next.join(CA_KEY), key.as_bytes())?;
            let authority = Authority::create(now.cluster(), &key, time)?;
            file::write_private(&next.join(CA_CERTIFICATE), authority.certificate_pem().as_bytes())
        }
        Step::Issue => {
            let authority = pair(&next)?;
            let refuse = |rule| AuthorityError::Certificate { path: next.join(CA_CERTIFICATE), rule };
            if authority.cluster() != now.cluster() {
                return Err(refuse(format!("is of cluster \"{}\"", authority.cluster())).into());
            }
            if authority.begins() > time || authority.most(life, time) < life {
                let rule = format!(
                    "is not good from now on for longer than certificates live, {}",
                    humantime::format_duration(life)
                );
                return Err(refuse(rule).into());
            }
            let cross = now.certify_next(&authority, time)?;
            lifetime::end(directory, life, time)?;
            file::write_private(&directory.join(CROSS), cross.as_bytes())?;
            file::write_private(&directory.join(PREVIOUS), now.certificate_pem().as_bytes())?;
            file::write_private(&next.join(SWITCH), b"")?;
            finish(directory)?;
            lifetime::begin(directory, life)
        }
        Step::Retire => {
            file::remove(&directory.join(PREVIOUS))?;
            file::remove(&directory.join(CROSS))?;
            file::remove(&directory.join(lifetime::UNTIL))
        }
    }
}

/// Puts the next CA in the place of the present one, if that was begun. The caller holds the lock.
pub(super) fn finish(directory: &Path) -> Result<(), PkiError> {
    let next = directory.join(NEXT);
    if file::read(&next.join(SWITCH))?.is_none() {
        return Ok(());
    }
    for name in [CA_KEY, CA_CERTIFICATE] {
        let path = next.join(name);
        let bytes = file::read(&path)?.ok_or_else(|| absent(path))?;
        file::write_private(&directory.join(name), &bytes)?;
    }
    // From here on it is done; what is left of the next one is nobody's, and goes before another one is made.
    file::remove(&next.join(SWITCH))?;
    file::remove(&next.join(CA_CERTIFICATE))?;
    file::remove(&next.join(CA_KEY))
}

/// The CA in a directory alone, whatever is beside it.
pub(super) fn pair(directory: &Path) -> Result<Authority, PkiError> {
    let (certificate_path, key_path) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
    let certificate = file::read_text(&certificate_path)?.ok_or_else(|| absent(certificate_path.clone()))?;
    let key = file::read_text(&key_path)?.ok_or(PkiError::KeyMissing { path: key_path })?;
    Ok(Authority::load(&certificate, &key, &certificate_path)?)
}

/// The certificate (PEM) of another CA than this one, in that file.
fn other(authority: &Authority, path: &Path) -> Result<Option<String>, PkiError> {
    let Some(pem) = file::read_text(path)? else { return Ok(None) };
    let is_another = authority.is_beside(&pem, path)?;
    Ok(Some(pem).filter(|_| is_another))
}

fn absent(path: PathBuf) -> PkiError {
    PkiError::Io { path, source: ErrorKind::NotFound.into() }
}

#[cfg(test)]
mod tests;
