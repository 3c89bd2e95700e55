//! What a tunnel leaves to the kernel, and to the network card.

use std::fmt::{self, Display};
use std::net::SocketAddr;

use loden_proto::model::{DeviceOffload, UdpBackend};

/// What it leaves to them at most.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// What the device hands out.
    pub device: DeviceOffload,
    /// Each datagram is sent by itself.
    pub single_sends: bool,
    /// Each datagram is received by itself.
    pub single_receives: bool,
}

impl From<UdpBackend> for Limits {
    fn from(backend: UdpBackend) -> Self {
        let UdpBackend { device_offload: device, single_sends, single_receives, .. } = backend;
        Self { device, single_sends, single_receives }
    }
}

/// Each with a space before it; nothing where all is left to them.
impl Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.device != DeviceOffload::default() {
            write!(f, " offload {}", self.device)?;
        }
        for (is_set, text) in
            [(self.single_sends, " single sends"), (self.single_receives, " single receives")]
        {
            if is_set {
                f.write_str(text)?;
            }
        }
        Ok(())
    }
}

/// What a tunnel leaves to them now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rungs {
    /// What it may leave to them.
    pub limits: Limits,
    /// What the device hands out.
    pub device: DeviceOffload,
    /// Each datagram is received by itself, on some port.
    pub single_receives: bool,
    /// Peers that are sent each datagram by itself; none where that holds for all of them (`limits`).
    pub singly: Vec<SocketAddr>,
    /// Peers to whom outer packets of so many bytes get at most, where that is less than the device hands out.
    pub narrow: Vec<(SocketAddr, u16)>,
}
