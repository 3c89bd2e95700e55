//! Descriptors of tunnels in the service manager's store: a restart of the agent delays packets instead of losing them
//! (systemd's `FileDescriptorStoreMax=`, sd_notify(3), sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use loden_datapath::kernel::Tunnels;
use loden_datapath::tunnel::held::{Held, Holder};
use sd_notify::{NotifyState, listen_fds_with_names, notify, notify_with_fds};
use tracing::{info, warn};

/// The service manager.
#[derive(Debug)]
struct Store;

impl Holder for Store {
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[descriptor])
    }

    fn release(&self, name: &str) -> io::Result<()> {
        notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
    }
}

/// The tunnels of this process. To be called once, before anything is opened that could be taken for a descriptor of
/// the store's.
#[must_use]
pub fn tunnels() -> Tunnels {
    let found = match listen_fds_with_names() {
        Ok(found) => found,
        Err(error) => {
            warn!(%error, "what the service manager has held for this process cannot be told");
            return Tunnels::with(Held::new([].into(), Box::new(Store)));
        }
    };
    let found: BTreeMap<String, OwnedFd> = found.map(|(number, name)| (name, owned(number))).collect();
    if !found.is_empty() {
        info!(names = ?found.keys().collect::<Vec<_>>(), "descriptors taken over from the service manager");
    }
    Tunnels::with(Held::new(found, Box::new(Store)))
}

#[allow(unsafe_code, reason = "a number is made an owner; see SAFETY")]
fn owned(number: i32) -> OwnedFd {
    // SAFETY: whoever started this process says that it has this descriptor for it, and nobody else here looks.
    unsafe { OwnedFd::from_raw_fd(number) }
}
