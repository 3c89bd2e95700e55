//! What should be in the kernel, and getting it there.
//!
//! ```text
//!  whole pass:  observe ─▶ plan against all that is desired ─▶ execute
//!  change:      entries of the peers that changed ──────────▶ execute
//! ```
//!
//! A step that fails fails alone. It is charged to the peer it belongs to.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use loden_datapath::backend::{self, Desired};
use loden_datapath::tables::{FdbKey, NeighbourKey, RemoteKey, RouteKey};
use loden_datapath::{Datapath, Error, Plan, Report, Scope, Step, Tables, plan};
use loden_proto::model::{Peer, Receiver};
use loden_proto::names::NodeId;
use loden_transport::explain;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::peers::PeerSet;

/// The datapath of one network, and what is wanted of it.
pub(crate) struct Program<D> {
    pub(crate) datapath: D,
    desired: Option<Desired>,
    failed: BTreeMap<NodeId, String>,
    broken: Option<String>,
    receivers: Vec<Receiver>,
    last_pass: Duration,
    done: Done,
}

/// What was done since the start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Done {
    /// Whole passes, by why.
    pub(crate) passes: BTreeMap<&'static str, u64>,
    /// Steps that the kernel refused.
    pub(crate) refused: u64,
}

impl<D: Datapath> Program<D> {
    pub(crate) fn new(datapath: D) -> Self {
        Self {
            datapath,
            desired: None,
            failed: BTreeMap::new(),
            broken: None,
            receivers: Vec::new(),
            last_pass: Duration::ZERO,
            done: Done::default(),
        }
    }

    /// None until lease, peers and underlay are known.
    pub(crate) const fn desired(&self) -> Option<&Desired> {
        self.desired.as_ref()
    }

    /// The same, to be changed; a whole pass must follow.
    pub(crate) const fn desired_mut(&mut self) -> Option<&mut Desired> {
        self.desired.as_mut()
    }

    /// Wants something else from now on; a whole pass must follow.
    pub(crate) fn want(&mut self, desired: Desired) {
        self.desired = Some(desired);
    }

    /// Peers that the kernel would not take, as of the last whole pass.
    pub(crate) const fn failed(&self) -> &BTreeMap<NodeId, String> {
        &self.failed
    }

    /// What is wrong beyond single peers.
    pub(crate) fn unfinished(&self) -> Option<String> {
        self.broken.clone().or_else(|| {
            let (node, reason) = self.failed.first_key_value()?;
            Some(format!("{} peers could not be programmed, first {node}: {reason}", self.failed.len()))
        })
    }

    /// What the kernel receives on, as it reports it.
    pub(crate) fn receivers(&self) -> &[Receiver] {
        &self.receivers
    }

    pub(crate) const fn last_pass(&self) -> Duration {
        self.last_pass
    }

    pub(crate) const fn done(&self) -> &Done {
        &self.done
    }

    /// Looks at everything and repairs it; true when nothing is left to do. `all` are the pools of all networks of the
    /// host, where they are known.
    pub(crate) async fn pass(
        &mut self,
        peers: &PeerSet,
        delete: bool,
        all: Option<Vec<IpNet>>,
        why: &'static str,
    ) -> bool {
        let Some(desired) = &self.desired else { return true };
        let begin = Instant::now();
        *self.done.passes.entry(why).or_default() += 1;
        let scope = Scope { all, ..backend::scope(desired.network(), desired.me().mac) };
        let actual = match self.datapath.observe(&scope).await {
            Ok(actual) => actual,
            Err(error) => return self.unreadable(&error),
        };
        let whole = plan(&actual, desired.tables());
        let remade = whole.steps().iter().find_map(|step| match step {
            Step::DeleteDevice(device) if !delete && desired.tables().devices.contains_key(device) => {
                Some(*device)
            }
            _ => None,
        });
        let plan = if delete { whole } else { whole.without_removals() };
        let report = if plan.is_empty() { Report::default() } else { self.datapath.execute(&plan).await };
        let actual = if changes_devices(&plan) {
            match self.datapath.observe(&scope).await {
                Ok(actual) => actual,
                Err(error) => return self.unreadable(&error),
            }
        } else {
            actual
        };
        self.receivers = backend::receivers(desired.network(), desired.me(), &actual);
        self.last_pass = begin.elapsed();
        if plan.is_empty() {
            debug!(why, "kernel looked at, nothing to do");
        } else {
            let (executed, failed) = (report.executed, report.failed.len());
            info!(why, executed, failed, took = ?self.last_pass, "kernel changed");
        }
        self.failed.clear();
        let before = self.broken.take();
        self.charge(report, peers, before);
        if let Some(device) = remade {
            self.broken = Some(format!(
                "the device {device} has to be created again, which waits for the control plane"
            ));
        }
        self.broken.is_none() && self.failed.is_empty()
    }

    /// Does what a change asks for; true when every step was done. Right only
    /// while the kernel holds what was desired before.
    pub(crate) async fn change(
        &mut self,
        change: impl FnOnce(&mut Desired) -> Plan,
        peers: &PeerSet,
        delete: bool,
    ) -> bool {
        let Some(desired) = &mut self.desired else { return true };
        let mut plan = change(desired);
        if !delete {
            plan = plan.without_removals();
        }
        if plan.is_empty() {
            return true;
        }
        let report = self.datapath.execute(&plan).await;
        debug!(executed = report.executed, failed = report.failed.len(), "kernel changed");
        if report.is_complete() {
            return true;
        }
        self.charge(report, peers, self.broken.clone());
        false
    }

    /// Takes a network out of the kernel, save what `remains` leaves out of all that is seen of it; true when
    /// nothing is left to do. Nothing is wanted any more then.
    pub(crate) async fn withdraw(&mut self, scope: &Scope, remains: impl FnOnce(Tables) -> Tables) -> bool {
        let actual = match self.datapath.observe(scope).await {
            Ok(actual) => actual,
            Err(error) => return self.unreadable(&error),
        };
        let plan = plan(&remains(actual), &Tables::default());
        let report = self.datapath.execute(&plan).await;
        let before = self.broken.take();
        if let Some(broken) = Failures::of(report).rest() {
            self.broken_by(broken, before);
            return false;
        }
        self.desired = None;
        self.failed.clear();
        self.receivers.clear();
        true
    }

    fn unreadable(&mut self, error: &Error) -> bool {
        self.broken_by(format!("the kernel could not be read: {}", explain(error)), self.broken.clone());
        false
    }

    /// Keeps what is wrong; a line of the log only where that is news.
    fn broken_by(&mut self, broken: String, before: Option<String>) {
        if before.as_ref() != Some(&broken) {
            warn!("{broken}");
        }
        self.broken = Some(broken);
    }

    /// Finds out whose steps failed. `before` is what was wrong until now.
    fn charge(&mut self, report: Report, peers: &PeerSet, before: Option<String>) {
        if report.is_complete() {
            return;
        }
        self.done.refused += report.failed.len() as u64;
        let mut failures = Failures::of(report);
        if let Some(desired) = &self.desired {
            for peer in peers.iter() {
                if let Some(reason) = failures.take(desired, peer) {
                    debug!(peer = %peer.node, %reason, "peer not programmed");
                    self.failed.insert(peer.node.clone(), reason);
                }
            }
        }
        if let Some(broken) = failures.rest() {
            self.broken_by(broken, before);
        }
    }
}

/// Failed steps by what they were about.
#[derive(Default)]
struct Failures {
    fdb: BTreeMap<FdbKey, String>,
    neighbours: BTreeMap<NeighbourKey, String>,
    remotes: BTreeMap<RemoteKey, String>,
    routes: BTreeMap<RouteKey, String>,
    other: Vec<String>,
}

impl Failures {
    fn of(report: Report) -> Self {
        let mut failures = Self::default();
        for (step, error) in report.failed {
            let reason = format!("{step}: {}", explain(&error));
            match step {
                Step::SetFdb(key, _) => drop(failures.fdb.insert(key, reason)),
                Step::SetNeighbour(key, _) => drop(failures.neighbours.insert(key, reason)),
                Step::SetRemote(key, _) => drop(failures.remotes.insert(key, reason)),
                Step::SetRoute(key, _) => drop(failures.routes.insert(key, reason)),
                _ => failures.other.push(reason),
            }
        }
        failures
    }

    /// The first failure of a peer, in the order of the steps.
    fn take(&mut self, desired: &Desired, peer: &Peer) -> Option<String> {
        if !desired.accepts(&peer.node) {
            return None;
        }
        let entries = backend::peer_tables(desired.network(), desired.me(), peer).tables;
        let fdb: Vec<_> = entries.fdb.keys().filter_map(|key| self.fdb.remove(key)).collect();
        let neighbours = entries.neighbours.keys().filter_map(|key| self.neighbours.remove(key));
        let mut all: Vec<_> = fdb.into_iter().chain(neighbours).collect();
        all.extend(entries.remotes.keys().filter_map(|key| self.remotes.remove(key)));
        all.extend(entries.routes.keys().filter_map(|key| self.routes.remove(key)));
        all.into_iter().next()
    }

    /// What belongs to no peer.
    fn rest(self) -> Option<String> {
        let entries = self.fdb.into_values().chain(self.neighbours.into_values());
        let entries = entries.chain(self.remotes.into_values()).chain(self.routes.into_values());
        // In the order of the steps: what the others stood on comes first, and is the cause.
        let mut rest = self.other.into_iter().chain(entries);
        let first = rest.next()?;
        Some(match rest.count() {
            0 => first,
            more => format!("{} steps failed, first {first}", more + 1),
        })
    }
}

fn changes_devices(plan: &Plan) -> bool {
    let device = |step: &Step| {
        matches!(
            step,
            Step::DeleteDevice(_) | Step::CreateDevice(..) | Step::ChangeDevice(..) | Step::Listen(..)
        )
    };
    plan.steps().iter().any(device)
}
