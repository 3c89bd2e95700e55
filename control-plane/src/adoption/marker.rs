//! The file that remembers, away from the store, which incarnation of it was served last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file. One line: the incarnation in 32 hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Marker {
    path: PathBuf,
}

/// Why the marker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The disk says no.
    #[error("incarnation marker {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
    /// It says something else than an incarnation.
    #[error("incarnation marker {path}: \"{text}\" must be 32 hexadecimal digits")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The beginning of what is in it.
        text: String,
    },
}

impl Marker {
    /// A marker at this path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The incarnation that was served last; `None` if there never was one.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or says something else.
    pub fn read(&self) -> Result<Option<u128>, MarkerError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let digits = text.trim_end();
        let well_formed = digits.len() == 32 && digits.bytes().all(|c| c.is_ascii_hexdigit());
        match u128::from_str_radix(digits, 16) {
            Ok(incarnation) if well_formed => Ok(Some(incarnation)),
            _ => Err(MarkerError::Unreadable {
                path: self.path.clone(),
                text: digits.chars().take(64).collect(),
            }),
        }
    }

    /// Notes an incarnation; a power cut leaves the old note or the new one.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn write(&self, incarnation: u128) -> Result<(), MarkerError> {
        self.replace(format!("{incarnation:032x}\n").as_bytes()).map_err(|error| self.io(error))
    }

    fn replace(&self, content: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    fn io(&self, error: io::Error) -> MarkerError {
        MarkerError::Io { path: self.path.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker::new(&dir.path().join("incarnation"));
        assert_eq!(marker.read().unwrap(), None);
        marker.write(7).unwrap();
        marker.write(u128::MAX).unwrap();
        assert_eq!(marker.read().unwrap(), Some(u128::MAX));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_marker_that_says_something_else_is_named_not_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation");
        for text in ["", "12", "+0000000000000000000000000000001", "x".repeat(32).as_str()] {
            fs::write(&path, text).unwrap();
            let error = Marker::new(&path).read().unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains(text), "{error}");
        }
    }
}
