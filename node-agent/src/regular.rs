//! Reads what is in a file's place only where it is a file: a named pipe or a device keeps its reader waiting.

use std::fs::{self, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// What is in a file's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    Nothing,
    Text(String),
    /// What it is instead of a file, in words.
    Other(&'static str),
}

/// Looks, and never waits.
pub(crate) fn read(path: &Path) -> io::Result<Found> {
    match find(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        found => found,
    }
}

fn find(path: &Path) -> io::Result<Found> {
    let seen = fs::metadata(path)?.file_type();
    if !seen.is_file() {
        return Ok(Found::Other(said(seen)));
    }
    // Somebody may have put something else there since.
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let opened = file.metadata()?.file_type();
    if !opened.is_file() {
        return Ok(Found::Other(said(opened)));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Found::Text(text))
}

fn said(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// Reads in a thread of its own, which may wait for ever.
    fn read_soon(path: &Path) -> Found {
        let (answer, answered) = mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || answer.send(read(&path)));
        answered.recv_timeout(Duration::from_secs(10)).expect("the reader waits").unwrap()
    }

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let [pipe, socket, file, link] =
            ["pipe", "socket", "file", "link"].map(|name| root.path().join(name));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_soon(&pipe), Found::Other("a named pipe"));
        assert_eq!(read_soon(&socket), Found::Other("a socket"));
        assert_eq!(read_soon(Path::new("/dev/zero")), Found::Other("a device"));
        assert_eq!(read_soon(root.path()), Found::Other("a directory"));
        assert_eq!(read_soon(&file), Found::Text("text".to_owned()));
        assert_eq!(read_soon(&link), Found::Text("text".to_owned()));
        assert_eq!(read_soon(&root.path().join("missing")), Found::Nothing);
    }
}
