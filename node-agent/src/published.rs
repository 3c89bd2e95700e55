//! A file that others start from: put in place as a whole, and put back when somebody removes or changes it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// Between looks at a file that somebody may have removed or changed.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// The file and what was written last.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    written: Option<String>,
    /// When the file was last compared with what is to be in it.
    looked: Option<Instant>,
}

impl Published {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path, written: None, looked: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts this text in place where it is not; true when it was written. Called again and again, it looks at
    /// the file every [`LOOK`].
    pub(crate) fn put(&mut self, text: String) -> io::Result<bool> {
        let seen = self.looked.is_some_and(|looked| looked.elapsed() < LOOK);
        if seen && self.written.as_ref() == Some(&text) {
            return Ok(false);
        }
        let written = write(&self.path, &text)?;
        self.looked = Some(Instant::now());
        self.written = Some(text);
        Ok(written)
    }
}

/// Puts the file in place: a reader finds either the old one or the whole new
/// one. Mode 0644 and missing directories 0755, whatever the umask is. False
/// when it had that text already.
fn write(path: &Path, text: &str) -> io::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_directories(directory)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let draft = directory.join(name);
    let mut file = File::create(&draft)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(true)
}

fn create_directories(directory: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> =
        directory.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    for path in missing.iter().rev().filter(|path| **path != Path::new("")) {
        match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_readable_by_all_and_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/subnet.env");
        write(&path, "one\n").unwrap();
        let before = File::open(&path).unwrap();
        write(&path, "two\n").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(io::read_to_string(before).unwrap(), "one\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
