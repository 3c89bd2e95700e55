//! What waits until a start is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Shut until it is opened, for ever. Whoever waits at it can wait for something else as well.
#[derive(Debug)]
pub(super) struct Gate(EventFd);

impl Gate {
    /// A shut one.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn shut() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    /// Lets everybody pass.
    pub(super) fn open(&self) {
        // Its counter is far from full.
        let _ = self.0.write(1);
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
