//! The addresses that a server's name stands for, as they were looked up last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::server_address::ServerAddress;

/// What each server's name stands for.
pub type Addresses = BTreeMap<ServerAddress, BTreeSet<IpAddr>>;

/// The addresses that a channel dials; cheap to clone. Whoever programs routes must leave them reachable.
#[derive(Clone, Debug, Default)]
pub struct Dialled(Arc<watch::Sender<Addresses>>);

impl Dialled {
    /// What is known without looking up any name.
    #[must_use]
    pub fn of(servers: &[ServerAddress]) -> Self {
        let dialled = Self::default();
        for server in servers {
            if let Ok(address) = server.host().parse() {
                dialled.note(server, [address]);
            }
        }
        dialled
    }

    /// All addresses.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.borrow().values().flatten().copied().collect()
    }

    /// Notices when a name stands for other addresses than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Addresses> {
        self.0.subscribe()
    }

    /// A server's name has been looked up.
    pub(crate) fn note(&self, server: &ServerAddress, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
        self.0.send_if_modified(|known| {
            let changed = known.get(server) != Some(&addresses);
            if changed {
                known.insert(server.clone(), addresses);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_what_it_was_looked_up_as_last() {
        let servers: Vec<ServerAddress> = ["192.0.2.1", "cp"].map(|text| text.parse().unwrap()).into();
        let dialled = Dialled::of(&servers);
        let mut changes = dialled.changes();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(dialled.addresses(), addresses(&["192.0.2.1"]));
        dialled.note(&servers[1], addresses(&["192.0.2.2", "2001:db8::2"]));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        dialled.note(&servers[1], addresses(&["2001:db8::2", "192.0.2.2"]));
        assert!(!changes.has_changed().unwrap());
        dialled.note(&servers[1], addresses(&["192.0.2.3"]));
        assert_eq!(dialled.addresses(), addresses(&["192.0.2.1", "192.0.2.3"]));
    }
}
