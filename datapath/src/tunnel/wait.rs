//! Waiting for a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::gate::Gate;
use super::looks::{self, Looks};
use super::stop::Stop;

/// How long room to write is waited for before it is looked whether to go on, in milliseconds.
const PATIENCE: u16 = 1000;

/// How a loop waits for a descriptor.
#[derive(Debug, Default)]
pub(super) struct Watch(Looks);

impl Watch {
    /// Waits for something to read, or an error, but not longer than until `stop` is set.
    pub(super) fn news(&mut self, descriptor: BorrowedFd<'_>, stop: &Stop) -> io::Result<PollFlags> {
        let stop = PollFd::new(stop.as_fd(), PollFlags::POLLIN);
        let mut both = [PollFd::new(descriptor, PollFlags::POLLIN), stop];
        let began = Instant::now();
        let mut timeout = if self.0.pay() { PollTimeout::ZERO } else { PollTimeout::NONE };
        while wait(&mut both, timeout)? == 0 {
            if began.elapsed() < looks::LONGEST {
                // Whoever else has something to do goes first.
                thread::yield_now();
            } else {
                timeout = PollTimeout::NONE;
            }
        }
        self.0.waited(began.elapsed());
        Ok(both[0].revents().unwrap_or(PollFlags::empty()))
    }
}

/// Waits for so many milliseconds, but not longer than until `stop` is set.
pub(super) fn pause(stop: &Stop, milliseconds: u16) -> io::Result<()> {
    wait(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], milliseconds.into()).map(drop)
}

/// Waits for a gate to be opened, but not longer than so many milliseconds or until `stop` is set.
pub(super) fn at(gate: &Gate, stop: &Stop, milliseconds: u16) -> io::Result<()> {
    let both = [gate.as_fd(), stop.as_fd()].map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    wait(&mut both.clone(), milliseconds.into()).map(drop)
}

/// Waits for room to write; not for longer than a second once `stop` is set.
pub(super) fn writable(descriptor: BorrowedFd<'_>, stop: &Stop) -> io::Result<()> {
    let mut alone = [PollFd::new(descriptor, PollFlags::POLLOUT)];
    loop {
        wait(&mut alone, PATIENCE.into())?;
        match alone[0].any() {
            Some(false) if stop.is_set() => return Err(io::ErrorKind::TimedOut.into()),
            Some(false) => {}
            _ => return Ok(()),
        }
    }
}

/// Of how many there are news.
fn wait(descriptors: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<i32> {
    loop {
        match poll(descriptors, timeout) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
