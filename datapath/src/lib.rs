//! Peers as kernel tables.
//!
//! ```text
//!  peers ─▶ backend (pure) ─▶ desired ─┐
//!                                      ├─▶ plan (pure) ─▶ execute ─▶ kernel | fake
//!                 kernel ─▶ observe ───┘                               │
//!                     ▲──────────────── hints: observe again ◀─────────┘
//! ```
//!
//! Everything of ours in the kernel is recognisable: devices by alias, routes
//! and neighbours by protocol number, forwarding database entries by being
//! permanent on a device of ours. Nothing else is touched but what stands in
//! its way: see [`tables::Rival`], and addresses and forwarding entries on our
//! devices.

// They panic when nobody takes what is printed.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod backend;
mod drift;
mod error;
mod facts;
pub mod fake;
pub mod firewall;
mod hint;
pub mod kernel;
mod name;
mod plan;
mod prefixes;
mod socket;
mod step;
pub mod tables;
pub mod tunnel;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use drift::Drift;
pub use error::{Error, KernelError};
pub use facts::{DefaultRoute, HostFacts, HostRoute, Interface, InterfaceAddress, RouteLookup, V6Off};
pub use fake::Fake;
pub use hint::{Hint, Hints, Scope};
pub use kernel::Kernel;
pub use name::DeviceName;
pub use plan::{Plan, plan};
pub use prefixes::Prefixes;
pub use step::{Change, Step};
pub use tables::Tables;
pub use tunnel::limits::Rungs;

/// A kernel's tables: look at them, change them.
pub trait Datapath: Send + 'static {
    /// Reads a network's part.
    ///
    /// # Errors
    /// When the tables could not be read whole: half an answer would look like
    /// drift.
    fn observe(&mut self, scope: &Scope) -> impl Future<Output = Result<Tables, Error>> + Send;

    /// Does a plan, step by step. A step that fails fails alone.
    fn execute(&mut self, plan: &Plan) -> impl Future<Output = Report> + Send;

    /// What the UDP tunnel of a device leaves to the kernel; `None` where there is none, or not any more.
    fn rungs(&mut self, device: DeviceName) -> impl Future<Output = Option<Rungs>> + Send;

    /// Counts the requests to write that were ever sent.
    fn writes(&self) -> Writes;

    /// Resolves when nothing that is asked will be done any more, which only a
    /// defect can bring about. What is in the kernel stays.
    fn failed(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// The host around a datapath, to be looked at only.
pub trait Host: Send + 'static {
    /// Reads interfaces, addresses and the routes that matter for the choice
    /// of an underlay.
    ///
    /// # Errors
    /// When they could not be read.
    fn facts(&mut self) -> impl Future<Output = Result<HostFacts, Error>> + Send;

    /// Asks how the kernel would send to an address; `None` when it would not.
    ///
    /// # Errors
    /// When the question could not be asked.
    fn route_to(
        &mut self,
        address: IpAddr,
    ) -> impl Future<Output = Result<Option<RouteLookup>, Error>> + Send;

    /// The neighbours on a link that did not answer when they were asked last.
    ///
    /// # Errors
    /// When they could not be read.
    fn unanswered(&mut self, link: u32) -> impl Future<Output = Result<Vec<IpAddr>, Error>> + Send;

    /// Tells everybody on a link which MAC address has these addresses of its device, in whose stead they may
    /// remember another one.
    ///
    /// # Errors
    /// When it could not be told of each of them.
    fn announce(
        &mut self,
        device: DeviceName,
        addresses: &[IpAddr],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Has the kernel ask for neighbours on a link, as it does by itself for those that it sends to. What comes of it
    /// is announced.
    ///
    /// # Errors
    /// When it does not take one of them.
    fn ask(
        &mut self,
        device: DeviceName,
        addresses: &[IpAddr],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins to listen: what happens after this returns is announced.
    ///
    /// # Errors
    /// When the kernel lets nobody listen.
    fn hints(&mut self) -> impl Future<Output = Result<Hints, Error>> + Send;
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// How many steps were done; what was gone already counts as unset.
    pub executed: usize,
    /// The steps that failed, in the plan's order, each with its reason.
    pub failed: Vec<(Step, Error)>,
}

impl Report {
    /// Of a datapath that has failed.
    fn closed(plan: &Plan) -> Self {
        let failed = plan.steps().iter().map(|step| (step.clone(), Error::Closed));
        Self { executed: 0, failed: failed.collect() }
    }

    /// Whether every step was done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// A counter of requests to write, shared by all who look at it.
#[derive(Clone, Debug, Default)]
pub struct Writes(Arc<AtomicU64>);

impl Writes {
    /// The count.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
