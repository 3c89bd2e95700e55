//! A descriptor store, as service managers have one: it holds what a program sends (sd_notify(3)) and hands it to the
//! next one (sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The first descriptor that a program is handed (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// Bytes of a message at most; ours have less than a hundred.
const MESSAGE: usize = 4096;

type Names = BTreeMap<String, OwnedFd>;

/// Holds descriptors by name until it is dropped.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    held: Arc<Mutex<Names>>,
}

impl Store {
    /// Listens on a socket at `path`, which must not be there yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let socket =
            UnixDatagram::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let held = Arc::<Mutex<Names>>::default();
        let names = Arc::downgrade(&held);
        thread::Builder::new().name("descriptor store".to_owned()).spawn(move || {
            // Whoever drops the store removes the socket's name; nobody sends to it any more.
            while let Ok((text, descriptor)) = receive(&socket) {
                let Some(held) = names.upgrade() else { return };
                heed(&mut lock(&held), &text, descriptor);
            }
        })?;
        Ok(Self { path: path.to_owned(), held })
    }

    /// The names of what is held.
    #[must_use]
    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.held).keys().cloned().collect()
    }

    /// A program that starts the one in its arguments with what is held.
    ///
    /// # Errors
    /// When a descriptor cannot be copied.
    pub(super) fn command(&self) -> anyhow::Result<Command> {
        let held = lock(&self.held);
        let mut mappings = Vec::new();
        for (descriptor, child_fd) in held.values().zip(FIRST..) {
            mappings.push(FdMapping { parent_fd: descriptor.try_clone()?, child_fd });
        }
        let names: Vec<&str> = held.keys().map(String::as_str).collect();
        let mut command = Command::new("sh");
        // It becomes the program, so that its number is the program's.
        command
            .args(["-c", r#"export LISTEN_PID=$$; exec "$0" "$@""#])
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        command.fd_mappings(mappings)?;
        Ok(command)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Wakes the thread, which then finds nobody.
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", &self.path));
        let _ = std::fs::remove_file(&self.path);
    }
}

fn heed(held: &mut Names, text: &str, descriptor: Option<OwnedFd>) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let Some(name) = value("FDNAME") else { return };
    if value("FDSTOREREMOVE") == Some("1") {
        held.remove(name);
    } else if value("FDSTORE") == Some("1") {
        held.extend(descriptor.map(|descriptor| (name.to_owned(), descriptor)));
    }
}

/// A message, and the descriptor that came with it.
#[allow(unsafe_code, reason = "a number is made an owner; see SAFETY")]
fn receive(socket: &UnixDatagram) -> io::Result<(String, Option<OwnedFd>)> {
    let mut text = [0; MESSAGE];
    let mut buffers = [IoSliceMut::new(&mut text)];
    let mut control = cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just made it for this process, and nobody else here knows of it.
                descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    let bytes = message.bytes;
    Ok((String::from_utf8_lossy(&text[..bytes]).into_owned(), descriptor))
}

fn lock(held: &Mutex<Names>) -> MutexGuard<'_, Names> {
    // A map is never left half-changed.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
