//! The socket's file: who gets in is its mode, from its first moment on.
//!
//! ```text
//!  nothing there, or nobody listens ─▶ bind, 0660 ─▶ listen ─▶ … ─▶ the file goes, then the socket
//!  somebody listens, or no socket ───▶ left alone
//! ```

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

use crate::published::create_directories;

/// For its owner and its group.
const MODE: u32 = 0o660;

/// A socket that is listened on. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    // The first to go: as long as the socket is there, no other file gets its inode.
    _entry: Entry,
    pub(super) listener: UnixListener,
}

/// The socket cannot be had. The text is whole: no cause is said again as a source.
#[derive(Debug, thiserror::Error)]
pub enum Unbound {
    /// Another process has it.
    #[error("{}: somebody listens on it", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It is somebody else's.
    #[error("{}: it is no socket", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl Socket {
    /// Listens at `path`, in place of a socket that nobody listens on any more. Its mode is 0660, that of missing
    /// directories 0755, whatever the umask is. To be called where tokio runs.
    ///
    /// # Errors
    /// There is something else, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, Unbound> {
        let at = |error| Unbound::Io { path: path.to_owned(), error };
        if let Some(directory) = path.parent() {
            create_directories(directory).map_err(at)?;
        }
        remove_stale(path)?;
        let socket = named(path).map_err(at)?;
        let entry = Entry::of(path).map_err(at)?;
        // The umask may have taken from it. Nobody gets in before it is listened on.
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(at)?;
        let listener = listening(socket).map_err(at)?;
        Ok(Self { _entry: entry, listener })
    }
}

/// Removes the file of a socket that nobody listens on; tells whether there was one.
///
/// # Errors
/// There is something else, or the system refuses.
pub(crate) fn remove_stale(path: &Path) -> Result<bool, Unbound> {
    let at = |error| Unbound::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Ok(seen) if seen.file_type().is_socket() => {}
        Ok(_) => return Err(Unbound::Foreign { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(error)),
    }
    match dial(path) {
        // With the latter, so many want to get in that it does not take more.
        Ok(()) | Err(Errno::EAGAIN) => Err(Unbound::Taken { path: path.to_owned() }),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map(|()| true).map_err(at),
        Err(errno) => Err(at(errno.into())),
    }
}

fn unnamed() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Whether somebody listens. Without waiting for it.
fn dial(path: &Path) -> Result<(), Errno> {
    connect(unnamed()?.as_raw_fd(), &UnixAddr::new(path)?)
}

/// A socket with this name that is not listened on yet.
fn named(path: &Path) -> io::Result<OwnedFd> {
    let socket = unnamed()?;
    // Linux gives the file the mode that the socket itself has, less the umask: it never has a wider one.
    fchmod(&socket, Mode::from_bits_truncate(MODE))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn listening(socket: OwnedFd) -> io::Result<UnixListener> {
    listen(&socket, Backlog::MAXCONN)?;
    UnixListener::from_std(socket.into())
}

/// A file that goes with its owner, unless there is another one in its place.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    /// Device and inode.
    number: (u64, u64),
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), number: number(path)? })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if number(&self.path).is_ok_and(|number| number == self.number) {
            // One that stays is taken for what it is by the next agent.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn number(path: &Path) -> io::Result<(u64, u64)> {
    let seen = fs::symlink_metadata(path)?;
    Ok((seen.dev(), seen.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn it_is_for_owner_and_group_and_goes_at_the_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/loden/agent.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o755));
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn one_that_nobody_listens_on_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent.sock");
        // As an agent that was killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = Socket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn one_that_somebody_listens_on_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        let before = number(&path).unwrap();
        let refused = Socket::bind(&path).unwrap_err();
        assert_eq!(refused.to_string(), format!("{}: somebody listens on it", path.display()));
        assert_eq!(number(&path).unwrap(), before);
        drop(first);
        assert!(!remove_stale(&path).unwrap());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| root.path().join(name));
        fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(root.path().join("missing"), &link).unwrap();
        for path in [&file, &link] {
            let refused = Socket::bind(path).unwrap_err();
            assert_eq!(refused.to_string(), format!("{}: it is no socket", path.display()));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert!(link.is_symlink());
        let below = Socket::bind(&file.join("agent.sock")).unwrap_err();
        assert!(matches!(below, Unbound::Io { .. }), "{below}");
    }

    #[tokio::test]
    async fn another_one_that_has_taken_its_place_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }
}
