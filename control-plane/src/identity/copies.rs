//! Copies of the CA: what others need of it to be the same control plane, given and taken.

use std::path::Path;
use std::time::SystemTime;

use super::{
    CA_CERTIFICATE, Files, LOCK, Pki, PkiError, TOKEN_KEY, UNPROVEN, changes, file, rotation, shared,
};

impl Pki {
    /// Has a directory hold the CA that is shared, before it is opened.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_shared(directory: &Path, files: &Files) -> Result<(), PkiError> {
        file::create_private_directory(directory)?;
        let _lock = file::lock(&directory.join(LOCK))?;
        shared::put(directory, files)
    }

    /// What a directory that need not be there has to share, before it is opened; nothing is made.
    ///
    /// # Errors
    /// It cannot be read, or what was changed there cannot be counted.
    pub fn found(directory: &Path) -> Result<Files, PkiError> {
        if !directory.join(CA_CERTIFICATE).exists() {
            return Ok(Files::new());
        }
        let _lock = file::lock(&directory.join(LOCK))?;
        rotation::finish(directory)?;
        changes::count(directory)?;
        shared::collect(directory)
    }

    /// Has the CA in a directory come before another copy of it, however often that was changed.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn put_first(directory: &Path, other: &Files) -> Result<(), PkiError> {
        let _lock = file::lock(&directory.join(LOCK))?;
        changes::count_beyond(directory, other)
    }

    /// Takes up the CA that is shared, as somebody else has changed it.
    ///
    /// # Errors
    /// As [`Self::refresh`], or it cannot be written.
    pub fn take_shared(&self, files: &Files, now: SystemTime) -> Result<(), PkiError> {
        Self::put_shared(&self.directory, files)?;
        self.refresh(now)
    }

    /// What others need of the CA to be the same control plane.
    ///
    /// # Errors
    /// As [`Self::found`].
    pub fn shared(&self) -> Result<Files, PkiError> {
        Self::found(&self.directory)
    }
}

/// Whether two copies have the same key of tokens, if any.
#[must_use]
pub fn have_one_key(one: &Files, other: &Files) -> bool {
    one.get(TOKEN_KEY) == other.get(TOKEN_KEY)
}

/// The same CA once it has proved itself; none if it is not noted that it has not.
#[must_use]
pub fn proven(files: &Files) -> Option<Files> {
    let mut proven = files.clone();
    proven.remove(UNPROVEN).map(|_| proven)
}
