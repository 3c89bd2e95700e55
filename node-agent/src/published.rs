//! A file that others start from: put in place as a whole, and put back when somebody removes or changes it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::regular::{self, Found};

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
/// when it had that text already. What is there and no file is replaced as well, save a directory.
fn write(path: &Path, text: &str) -> io::Result<bool> {
    match regular::read(path) {
        Ok(Found::Text(present)) if present == text => return Ok(false),
        Ok(Found::Other(kind)) => warn!(path = %path.display(), "there is {kind} in the file's place"),
        _ => {}
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_directories(directory)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let draft = directory.join(name);
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let replaced = replace(path, &draft, text);
    if replaced.is_err() {
        // Whoever looks through the directory would wonder.
        drop(fs::remove_file(&draft));
    }
    replaced.map(|()| true)
}

fn replace(path: &Path, draft: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(draft)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)
}

/// Makes what is missing of a directory, 0755 whatever the umask is.
pub(crate) fn create_directories(directory: &Path) -> io::Result<()> {
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
    use std::sync::mpsc;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

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

    #[test]
    fn what_is_no_file_is_replaced_and_nothing_is_left_beside_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let (path, draft) = (root.path().join("subnet.env"), root.path().join("subnet.env.new"));
        for place in [&path, &draft] {
            mkfifo(place, Mode::S_IRWXU).unwrap();
        }
        let (answer, answered) = mpsc::channel();
        let there = path.clone();
        std::thread::spawn(move || answer.send(write(&there, "one\n")));
        let written = answered.recv_timeout(Duration::from_secs(10)).expect("a pipe is waited for");
        assert!(written.unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        assert!(!draft.exists());

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = write(&path, "one\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(!draft.exists(), "the draft is left");
    }
}
