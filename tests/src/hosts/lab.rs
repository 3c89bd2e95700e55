//! One experiment's hosts, processes and files, all gone when it is dropped.

use std::{path::Path, sync::Arc};

use super::{Error, Fabric, HostBuilder, log, record::Record};

/// Owner of everything that one test, benchmark or demo makes on the machine.
///
/// Dropping it, also by a panic, kills its processes and removes its namespaces and files.
/// What a killed run left behind goes with the next [`Lab::new`] or [`Lab::sweep`].
#[derive(Debug)]
pub struct Lab {
    name: String,
    record: Arc<Record>,
}

impl Lab {
    /// Opens a lab. `name` only appears in messages; labs of several threads, processes and
    /// checkouts never meet.
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::sweep()?;
        Ok(Self { name: name.to_owned(), record: Arc::new(Record::create()?) })
    }

    /// Removes what labs of dead processes left behind, and nothing else; answers their ids.
    pub fn sweep() -> Result<Vec<String>, Error> {
        Record::sweep()
    }

    /// What the lab's names on the machine have in common.
    #[must_use]
    pub fn id(&self) -> &str {
        self.record.id()
    }

    /// A directory for logs and state, removed with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.record.directory()
    }

    /// Makes an underlay segment. `name` is unique in the lab: 1 to 10 of `a-z 0-9 -`.
    pub async fn fabric(&self, name: &str) -> Result<Fabric, Error> {
        Fabric::create(&self.record, name).await
    }

    /// Describes a host; [`HostBuilder::build`] makes it. `name` is unique in the lab: 1 to 10
    /// of `a-z 0-9 -`.
    pub fn host(&self, name: &str) -> HostBuilder {
        HostBuilder::new(Arc::clone(&self.record), name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            log::print_tails(self.directory());
        }
        if let Err(error) = self.record.remove() {
            eprintln!("lab {} ({}): {error:?}", self.name, self.id());
        }
    }
}
