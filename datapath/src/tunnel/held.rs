//! Descriptors that outlive this process: whoever holds them hands them back to the next one.
//!
//! ```text
//!  opened ──hold──▶ holder ══ the process ends, packets wait ══▶ Held::new ──take──▶ in use again
//! ```
//!
//! While somebody has a device or a port open, what comes waits in the kernel's queues instead of being dropped.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::name::DeviceName;

/// What names of ports begin with, and of devices of ours do not.
const PORT: &str = "udp-";

/// Holds descriptors outside of this process, as systemd's descriptor store does.
pub trait Holder: Debug + Send {
    /// Keeps one of a name, which no other one has.
    ///
    /// # Errors
    /// It cannot be handed over; it ends with this process then.
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Keeps the one of that name no longer.
    ///
    /// # Errors
    /// The holder cannot be told.
    fn release(&self, name: &str) -> io::Result<()>;
}

/// What was held for this process, and who holds what it opens.
#[derive(Debug, Default)]
pub struct Held {
    found: BTreeMap<String, OwnedFd>,
    holder: Option<Box<dyn Holder>>,
}

impl Held {
    /// With what a process before this one has left, by name.
    #[must_use]
    pub fn new(found: BTreeMap<String, OwnedFd>, holder: Box<dyn Holder>) -> Self {
        Self { found, holder: Some(holder) }
    }

    /// Takes up the one of a name if it still is what is wanted; else opens what is held from now on.
    pub(super) fn open<T: AsFd>(
        &mut self,
        name: &str,
        adopt: impl FnOnce(OwnedFd) -> Option<T>,
        open: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(adopted) = self.found.remove(name).and_then(adopt) {
            return Ok(adopted);
        }
        // Of one that was another's, or has ended.
        self.release(name);
        let opened = open()?;
        let held = self.holder.as_ref().map_or(Ok(()), |holder| holder.hold(name, opened.as_fd()));
        if let Err(error) = held {
            tracing::warn!(%error, name, "what is open ends with this process: a restart will lose packets");
        }
        Ok(opened)
    }

    pub(super) fn release(&mut self, name: &str) {
        self.found.remove(name);
        let released = self.holder.as_ref().map_or(Ok(()), |holder| holder.release(name));
        if let Err(error) = released {
            tracing::warn!(%error, name, "a descriptor that is not needed any more stays open");
        }
    }

    /// Whether a device waits to be taken up.
    pub(super) fn has_devices(&self) -> bool {
        self.found.keys().any(|name| !name.starts_with(PORT))
    }

    /// Releases what nobody has taken.
    pub(super) fn release_rest(&mut self) {
        let rest: Vec<String> = self.found.keys().cloned().collect();
        rest.iter().for_each(|name| self.release(name));
    }
}

/// The name of a port: holders take no colons.
pub(super) fn port_name(local: SocketAddr) -> String {
    let address = match local.ip() {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    };
    format!("{PORT}{}-{address}", local.port())
}

/// Whether a descriptor is a queue of the device of that name, which is still there.
pub(super) fn is_of_device(descriptor: &OwnedFd, name: DeviceName) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()));
    info.is_ok_and(|info| {
        let mut lines = info.lines();
        lines.any(|line| line.strip_prefix("iff:").is_some_and(|device| device.trim() == name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_name_without_colons() {
        assert_eq!(port_name("192.0.2.1:8285".parse().unwrap()), "udp-8285-c0000201");
        let v6 = port_name("[2001:db8::1]:8285".parse().unwrap());
        assert_eq!(v6, "udp-8285-20010db8000000000000000000000001");
    }

    #[test]
    fn a_file_is_no_device() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(!is_of_device(&file, "loden1u".parse().unwrap()));
    }
}
