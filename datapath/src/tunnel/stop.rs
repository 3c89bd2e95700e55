//! How a loop is told to end: one that waits, and one that is never left without something to do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Told by one thread, seen by another.
#[derive(Debug)]
pub struct Stop {
    is_set: AtomicBool,
    /// Readable as soon as it is set.
    event: EventFd,
}

impl Stop {
    /// Nobody shall end yet.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { is_set: AtomicBool::new(false), event })
    }

    /// From now on, and for ever.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        // Its counter is far from full.
        let _ = self.event.write(1);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
