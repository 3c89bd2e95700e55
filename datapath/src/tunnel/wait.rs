//! Waiting for a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::gate::Gate;
use super::stop::Stop;

/// Waits for something to read, or an error, but not longer than until `stop` is set.
pub(super) fn news(descriptor: BorrowedFd<'_>, stop: &Stop) -> io::Result<PollFlags> {
    let stop = PollFd::new(stop.as_fd(), PollFlags::POLLIN);
    let mut both = [PollFd::new(descriptor, PollFlags::POLLIN), stop];
    wait(&mut both, PollTimeout::NONE)?;
    Ok(both[0].revents().unwrap_or(PollFlags::empty()))
}

/// Waits for so many milliseconds, but not longer than until `stop` is set.
pub(super) fn pause(stop: &Stop, milliseconds: u16) -> io::Result<()> {
    wait(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], milliseconds.into())
}

/// Waits for a gate to be opened, but not longer than so many milliseconds or until `stop` is set.
pub(super) fn at(gate: &Gate, stop: &Stop, milliseconds: u16) -> io::Result<()> {
    let both = [gate.as_fd(), stop.as_fd()].map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    wait(&mut both.clone(), milliseconds.into())
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
