//! A TUN device that hands out super-packets, and takes them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::uio::writev;
use nix::unistd::read;
use tun_rs::DeviceBuilder;

use crate::name::DeviceName;

/// Packets that wait for the tunnel at most.
const QUEUE: u32 = 4096;

/// One queue of a device.
#[derive(Debug)]
pub struct TunDevice {
    descriptor: OwnedFd,
}

impl TunDevice {
    /// Makes a device, or opens one that has no other owner. Nobody has to set an address for it to work.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, or no right to use it.
    pub fn open(name: DeviceName, mtu: u16) -> io::Result<Self> {
        let device = DeviceBuilder::new()
            .name(name.as_str())
            .mtu(mtu)
            .with(|options| {
                options.offload(true).multi_queue(true).tx_queue_len(QUEUE);
            })
            .build_sync()?;
        let descriptor = device.as_fd().try_clone_to_owned()?;
        nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self { descriptor })
    }

    /// Reads one packet with its header.
    ///
    /// # Errors
    /// Whatever the kernel says; `WouldBlock`: there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(&self.descriptor, buffer)?)
    }

    /// Writes one packet with its header.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn write(&self, packet: &[IoSlice<'_>]) -> io::Result<()> {
        writev(&self.descriptor, packet)?;
        Ok(())
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
