//! A TUN device that hands out super-packets, and takes them.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use loden_proto::model::DeviceOffload;
use nix::sys::uio::writev;
use nix::unistd::read;
use tun_rs::DeviceBuilder;

use crate::name::DeviceName;

/// Packets that wait for the tunnel at most.
const QUEUE: u32 = 4096;

nix::ioctl_write_int_bad!(
    /// Sets what a TUN device may hand out.
    tun_set_offload,
    libc::TUNSETOFFLOAD
);

/// What may be left undone to the packets of a device (`TUN_F_…`).
const fn flags(offload: DeviceOffload) -> i32 {
    let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let flags = match offload {
        DeviceOffload::Plain => 0,
        DeviceOffload::Tso => tso,
        DeviceOffload::Uso => tso | libc::TUN_F_USO4 | libc::TUN_F_USO6,
    };
    // Of the lowest bits.
    flags as i32
}

/// One queue of a device.
#[derive(Debug)]
pub struct TunDevice {
    descriptor: OwnedFd,
    name: DeviceName,
}

/// Makes a device that stays when nobody has it open, down.
///
/// # Errors
/// There is no `/dev/net/tun`, no right to use it, or a device of the name.
pub fn create(name: DeviceName, mtu: u16) -> io::Result<()> {
    if nix::net::if_::if_nametoindex(name.as_str()).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let device = builder(name, mtu).enable(false).build_sync()?;
    device.persist()
}

/// Whoever opens a device has to say the same of queues and headers as who made it.
fn builder(name: DeviceName, mtu: u16) -> DeviceBuilder {
    DeviceBuilder::new().name(name.as_str()).mtu(mtu).with(|options| {
        options.offload(true).multi_queue(true).tx_queue_len(QUEUE);
    })
}

impl TunDevice {
    /// Opens a device, or makes one that goes with the last who has it open. Nobody has to set an address for it to
    /// work.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, or no right to use it.
    pub fn open(name: DeviceName, mtu: u16) -> io::Result<Self> {
        let device = builder(name, mtu).build_sync()?;
        Self::adopt(name, device.as_fd().try_clone_to_owned()?)
    }

    /// Takes up one that is open already.
    ///
    /// # Errors
    /// It is no such descriptor.
    pub fn adopt(name: DeviceName, descriptor: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // What a router tells its pods comes from its own address, and so from one of this host.
        let setting = format!("/proc/sys/net/ipv4/conf/{name}/accept_local");
        if let Err(error) = std::fs::write(&setting, "1") {
            tracing::warn!(%error, setting, "pods will not be told which IPv4 packets are too long");
        }
        Ok(Self { descriptor, name })
    }

    /// Has the device hand out at most so much; answers what the kernel takes of it.
    ///
    /// # Errors
    /// It takes nothing.
    #[allow(unsafe_code, reason = "a request that no library has; see SAFETY")]
    pub fn set_offload(&self, most: DeviceOffload) -> io::Result<DeviceOffload> {
        let mut refused = None;
        for offload in [DeviceOffload::Uso, DeviceOffload::Tso, DeviceOffload::Plain] {
            if offload > most {
                continue;
            }
            // SAFETY: the descriptor is open, and the argument is a number.
            match unsafe { tun_set_offload(self.descriptor.as_raw_fd(), flags(offload)) } {
                Ok(_) => return Ok(offload),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| io::ErrorKind::Unsupported.into(), io::Error::from))
    }

    /// The device.
    #[must_use]
    pub const fn name(&self) -> DeviceName {
        self.name
    }

    /// Its addresses, those of the link alone left out.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
        let own = all.filter(|found| found.interface_name == self.name.as_str());
        let addresses = own.filter_map(|found| {
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
        });
        let is_of_link = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        addresses.filter(|address| !is_of_link(address)).collect()
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
