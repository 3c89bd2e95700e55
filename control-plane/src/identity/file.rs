//! Files that only their owner reads, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::PkiError;

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { path, source }
}

/// Makes the directory, and missing parents, for its owner only, whatever the umask is. No power cut takes them
/// away again.
pub(super) fn create_private_directory(path: &Path) -> Result<(), PkiError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    create_private_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path)(error)),
        _ => sync(parent),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or_else(|| Path::new("."))
}

fn sync(directory: &Path) -> Result<(), PkiError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}

/// Whether the group or others have any right to it.
pub(super) fn is_open_to_others(path: &Path) -> Result<bool, PkiError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
    Ok(mode & 0o077 != 0)
}

/// Waits for, and holds, the exclusive lock on a file, until dropped.
pub(super) fn lock(path: &Path) -> Result<Flock<File>, PkiError> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open.map_err(at(path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| at(path)(errno.into()))
}

/// The contents; none when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// The contents as text; none when there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| PkiError::Content { path: path.to_owned(), rule: "must be text (PEM)" })
}

/// Writes a file, 0600, so that a reader, also after a power cut, finds either the old one or the new one.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    // Two files that differ in their extensions alone are not each other's.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => {}
    }
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let mut file = open.map_err(at(&new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))?;
    sync(parent(path))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}
