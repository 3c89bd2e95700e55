//! Waiting for a descriptor.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits for something to read; `false`: `stop` can be read.
pub(super) fn readable(descriptor: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(news(descriptor, stop)?.is_some())
}

/// Waits for something to read, or an error; `None`: `stop` can be read.
pub(super) fn news(descriptor: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<Option<PollFlags>> {
    let mut both = [PollFd::new(descriptor, PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
    wait(&mut both, PollTimeout::NONE)?;
    let is_stopped = both[1].any().unwrap_or_default();
    Ok((!is_stopped).then(|| both[0].revents().unwrap_or(PollFlags::empty())))
}

/// Waits for so many milliseconds; whether `stop` can be read.
pub(super) fn stopped(stop: BorrowedFd<'_>, milliseconds: u16) -> io::Result<bool> {
    let mut one = [PollFd::new(stop, PollFlags::POLLIN)];
    wait(&mut one, milliseconds.into())?;
    Ok(one[0].any().unwrap_or_default())
}

/// Waits for room to write.
pub(super) fn writable(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    wait(&mut [PollFd::new(descriptor, PollFlags::POLLOUT)], PollTimeout::NONE)
}

fn wait(descriptors: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    loop {
        match poll(descriptors, timeout) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
