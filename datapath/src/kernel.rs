//! The kernel, over netlink.

use std::net::IpAddr;

use crate::facts::{HostFacts, RouteLookup};
use crate::hint::{Hints, Scope};
use crate::plan::Plan;
use crate::tables::Tables;
use crate::{Datapath, Error, Host, Report, Writes};

/// The kernel's tables in one network namespace.
#[derive(Debug)]
pub struct Kernel {
    writes: Writes,
}

impl Kernel {
    /// The kernel of the calling thread's network namespace.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open() -> Result<Self, Error> {
        Err(Error::Closed)
    }
}

impl Datapath for Kernel {
    async fn observe(&mut self, _scope: &Scope) -> Result<Tables, Error> {
        Err(Error::Closed)
    }

    async fn execute(&mut self, _plan: &Plan) -> Report {
        Report::default()
    }

    fn writes(&self) -> Writes {
        self.writes.clone()
    }
}

impl Host for Kernel {
    async fn facts(&mut self) -> Result<HostFacts, Error> {
        Err(Error::Closed)
    }

    async fn route_to(&mut self, _address: IpAddr) -> Result<Option<RouteLookup>, Error> {
        Err(Error::Closed)
    }

    async fn hints(&mut self) -> Result<Hints, Error> {
        Err(Error::Closed)
    }
}
