//! The kernel, over netlink.
//!
//! ```text
//!  Kernel ──commands──▶ worker thread (in the namespace) ──▶ requests socket, /proc/sys
//!                           └─ opens ─▶ monitor socket ─▶ task ─▶ Hints
//! ```
//!
//! Sockets belong to the network namespace in which they were opened, and
//! `/proc/sys/net` to that of the thread that looks. So one thread stays in
//! the namespace and does everything that blocks.

mod announce;
mod clear;
mod decode;
mod elsewhere;
mod encode;
mod execute;
mod frames;
mod monitor;
mod netconf;
mod observe;
mod requests;
mod sysctl;
mod underlay;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, oneshot};

use crate::facts::{HostFacts, RouteLookup};
use crate::hint::{Hints, Scope};
use crate::plan::Plan;
use crate::tables::Tables;
use crate::tunnel::engine::Engine;
use crate::tunnel::held::Held;
use crate::{Datapath, DeviceName, Error, Host, Report, Rungs, Writes};
pub use clear::{Cleared, Remnant};
use monitor::Monitor;
use requests::Requests;

/// Hints that wait for a slow listener; more wait in the kernel.
const HINTS: usize = 16 * 1024;

/// The tunnels of this process in one network namespace, shared by its networks.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Arc<Mutex<Engine>>);

impl Tunnels {
    /// Tunnels that take up what a process before this one has left open.
    #[must_use]
    pub fn with(held: Held) -> Self {
        Self(Arc::new(Mutex::new(Engine::with(held))))
    }

    /// The engine, to look at or to change, for as long as nobody else needs it.
    pub fn lock(&self) -> MutexGuard<'_, Engine> {
        // A change that panicked half-way is put right by the next pass.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's tables in one network namespace.
#[derive(Clone, Debug)]
pub struct Kernel {
    commands: mpsc::Sender<Command>,
    writes: Writes,
}

/// What the worker does, and where the answer goes.
enum Command {
    Observe(Scope, oneshot::Sender<Result<Tables, Error>>),
    Execute(Plan, oneshot::Sender<Report>),
    Rungs(DeviceName, oneshot::Sender<Option<Rungs>>),
    Facts(oneshot::Sender<Result<HostFacts, Error>>),
    RouteTo(IpAddr, oneshot::Sender<Result<Option<RouteLookup>, Error>>),
    Unanswered(u32, oneshot::Sender<Result<Vec<IpAddr>, Error>>),
    Announce(DeviceName, Vec<IpAddr>, oneshot::Sender<Result<(), Error>>),
    Ask(DeviceName, Vec<IpAddr>, oneshot::Sender<Result<(), Error>>),
    Monitor(oneshot::Sender<Result<Monitor, Error>>),
    Clear(Vec<DeviceName>, oneshot::Sender<Result<Cleared, Error>>),
}

impl Kernel {
    /// The kernel's tables in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket or thread can be had.
    pub fn open() -> Result<Self, Error> {
        Self::open_with(Tunnels::default())
    }

    /// The same, with tunnels that are shared with the kernels of other networks of the namespace: on one port there is
    /// one socket for all.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(tunnels: Tunnels) -> Result<Self, Error> {
        Self::start(None, tunnels)
    }

    /// The kernel's tables in a network namespace, such as an open
    /// `/run/netns/NAME`.
    ///
    /// # Errors
    /// As [`Self::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: OwnedFd) -> Result<Self, Error> {
        Self::start(Some(namespace), Tunnels::default())
    }

    fn start(namespace: Option<OwnedFd>, tunnels: Tunnels) -> Result<Self, Error> {
        let writes = Writes::default();
        let (commands, receiver) = mpsc::channel(1);
        let (opened, answer) = std::sync::mpsc::sync_channel(1);
        let counter = writes.clone();
        thread::Builder::new().name("datapath".to_owned()).spawn(move || {
            let requests = match namespace {
                Some(namespace) => enter(&namespace).and_then(|()| Requests::open(counter)),
                None => Requests::open(counter),
            };
            match requests {
                Ok(requests) => {
                    // Nobody waits only if `start` has panicked.
                    let _ = opened.send(Ok(()));
                    work(requests, &tunnels, receiver);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        answer.recv().map_err(|_| Error::Closed)??;
        Ok(Self { commands, writes })
    }

    /// Removes everything of ours, of all networks, and those of `bridges` that nothing is attached to.
    ///
    /// # Errors
    /// When it cannot be seen what there is.
    pub async fn clear(&self, bridges: Vec<DeviceName>) -> Result<Cleared, Error> {
        self.call(|answer| Command::Clear(bridges, answer)).await?
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}

fn enter(namespace: &OwnedFd) -> Result<(), Error> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Socket(io::Error::from(errno)))
}

/// Works until every [`Kernel`] is dropped. Who has stopped waiting for an
/// answer does not get one.
fn work(mut requests: Requests, tunnels: &Tunnels, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Observe(scope, answer) => {
                let mut engine = tunnels.lock();
                if scope.all.is_some() {
                    engine.release_rest();
                }
                drop(answer.send(observe::tables(&mut requests, &engine, &scope)));
            }
            Command::Execute(plan, answer) => {
                drop(answer.send(execute::execute(&mut requests, &mut tunnels.lock(), &plan)));
            }
            Command::Rungs(device, answer) => drop(answer.send(tunnels.lock().rungs(device))),
            Command::Facts(answer) => drop(answer.send(underlay::facts(&mut requests))),
            Command::RouteTo(address, answer) => {
                drop(answer.send(underlay::route_to(&mut requests, address)));
            }
            Command::Unanswered(link, answer) => {
                drop(answer.send(underlay::unanswered(&mut requests, link)));
            }
            Command::Announce(device, addresses, answer) => {
                drop(answer.send(announce::announce(device, &addresses)));
            }
            Command::Ask(device, addresses, answer) => {
                drop(answer.send(underlay::ask(&mut requests, device, &addresses)));
            }
            Command::Monitor(answer) => drop(answer.send(Monitor::open(&mut requests))),
            Command::Clear(bridges, answer) => {
                drop(answer.send(clear::everything(&mut requests, &bridges)));
            }
        }
    }
}

impl Datapath for Kernel {
    async fn observe(&mut self, scope: &Scope) -> Result<Tables, Error> {
        self.call(|answer| Command::Observe(scope.clone(), answer)).await?
    }

    async fn execute(&mut self, plan: &Plan) -> Report {
        let report = self.call(|answer| Command::Execute(plan.clone(), answer)).await;
        report.unwrap_or_else(|_| Report::closed(plan))
    }

    async fn rungs(&mut self, device: DeviceName) -> Option<Rungs> {
        self.call(|answer| Command::Rungs(device, answer)).await.ok().flatten()
    }

    fn writes(&self) -> Writes {
        self.writes.clone()
    }

    fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let commands = self.commands.clone();
        // The worker holds the other end, also while it panics.
        async move { commands.closed().await }
    }
}

impl Host for Kernel {
    async fn facts(&mut self) -> Result<HostFacts, Error> {
        self.call(Command::Facts).await?
    }

    async fn route_to(&mut self, address: IpAddr) -> Result<Option<RouteLookup>, Error> {
        self.call(|answer| Command::RouteTo(address, answer)).await?
    }

    async fn unanswered(&mut self, link: u32) -> Result<Vec<IpAddr>, Error> {
        self.call(|answer| Command::Unanswered(link, answer)).await?
    }

    async fn announce(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.call(|answer| Command::Announce(device, addresses.to_vec(), answer)).await?
    }

    async fn ask(&mut self, device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
        self.call(|answer| Command::Ask(device, addresses.to_vec(), answer)).await?
    }

    async fn hints(&mut self) -> Result<Hints, Error> {
        let monitor = self.call(Command::Monitor).await??;
        let (sender, hints) = mpsc::channel(HINTS);
        tokio::spawn(async move {
            if let Err(error) = monitor.run(sender).await {
                tracing::warn!(%error, "notifications of the kernel have ended");
            }
        });
        Ok(hints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_is_noticed_without_a_call() {
        let (commands, mut receiver) = mpsc::channel(1);
        let kernel = Kernel { commands, writes: Writes::default() };
        let failed = tokio::spawn(kernel.failed());
        let worker = thread::spawn(move || {
            let command: Option<Command> = receiver.blocking_recv();
            panic!("a defect, at {}", if command.is_some() { "a command" } else { "the end" });
        });
        assert!(!failed.is_finished());
        let facts = kernel.clone().facts().await;
        assert!(matches!(facts, Err(Error::Closed)), "{facts:?}");
        failed.await.unwrap();
        assert!(worker.join().is_err());
    }
}
