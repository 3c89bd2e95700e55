//! Waiting for a descriptor.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits for something to read; `false`: `stop` can be read.
pub(super) fn readable(descriptor: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<bool> {
    let mut both = [PollFd::new(descriptor, PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
    wait(&mut both)?;
    Ok(!both[1].any().unwrap_or_default())
}

/// Waits for room to write.
pub(super) fn writable(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    wait(&mut [PollFd::new(descriptor, PollFlags::POLLOUT)])
}

fn wait(descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(descriptors, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
