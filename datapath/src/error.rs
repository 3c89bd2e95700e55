//! What a datapath could not do.

use std::fmt::{self, Display};
use std::io;

use crate::name::DeviceName;

/// What a datapath could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("the kernel refused: {0}")]
    Kernel(KernelError),
    /// There is no device of this name.
    #[error("there is no device {0}")]
    NoDevice(DeviceName),
    /// A device of this name exists and is not ours.
    #[error("a device {0} exists and is not Loden's: it is {1}; rename or delete it")]
    NameTaken(DeviceName, String),
    /// Another device has the VNI and the port.
    #[error("the device {holder} has VNI {vni} on port {port} already; two devices cannot share them")]
    VniTaken {
        /// The other device.
        holder: String,
        /// The network identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// A device that is nowhere to be seen has the VNI and the port.
    #[error(
        "a device that was moved to another network namespace has VNI {vni} on port {port} still; delete it there"
    )]
    VniAway {
        /// The network identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// A setting could not be written.
    #[error("could not write /proc/sys/{path}")]
    Sysctl {
        /// The path below `/proc/sys`.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A tunnel of this process cannot be made, or cannot receive.
    #[error("the tunnel on {device} cannot be opened")]
    Tunnel {
        /// The TUN device.
        device: DeviceName,
        /// What the system said.
        source: io::Error,
    },
    /// The netlink socket failed.
    #[error("the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the kernel's answer could not be read: {0}")]
    Decode(String),
    /// Changes in the kernel interrupted a dump again and again.
    #[error("the kernel's tables change too fast to be read")]
    Interrupted,
    /// Answers were lost; whether the request took effect is not known.
    #[error("the kernel's answer was lost")]
    Unknown,
    /// The thread that talks to the kernel has ended.
    #[error("the datapath has been closed")]
    Closed,
}

/// An error that the kernel answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelError {
    /// The error number, positive (`errno(3)`).
    pub errno: i32,
    /// What the kernel adds in words, where it does (extended acknowledgement).
    pub message: Option<String>,
}

impl Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = nix::errno::Errno::from_raw(self.errno);
        match &self.message {
            Some(message) => write!(f, "{message} ({name:?})"),
            None => write!(f, "{} ({name:?})", name.desc()),
        }
    }
}
