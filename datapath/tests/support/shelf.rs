//! Whoever holds descriptors for a process, as a service manager does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use loden_datapath::tunnel::held::{Held, Holder};

#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

impl Shelf {
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> OwnedFd {
        self.0.lock().unwrap()[name].try_clone().unwrap()
    }

    /// What a process finds that begins now.
    pub(crate) fn found(&self) -> Held {
        let found = self.0.lock().unwrap();
        let found = found.iter().map(|(name, held)| (name.clone(), held.try_clone().unwrap())).collect();
        Held::new(found, Box::new(self.clone()))
    }
}

impl Holder for Shelf {
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.0.lock().unwrap().insert(name.to_owned(), descriptor.try_clone_to_owned()?);
        Ok(())
    }

    fn release(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}
