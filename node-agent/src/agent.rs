//! The tasks of an agent and the channels between them.
//!
//! ```text
//!             per network
//!  lease ◀──endpoint── reconcile ◀──feed── follow      one connection for all
//!    └──────view──────▶   │  ◀── file, kernel ──▶
//!                         └──▶ overview ──▶ report, /readyz, /metrics, subnet.env
//! ```
//!
//! The datapath, the connection and the end come in from outside: a test can
//! be `main` too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use loden_datapath::{Datapath, Host};
use loden_process::operations::Readiness;
use loden_proto::model::LeaseName;
use loden_proto::names::{NetworkId, NodeId};
use loden_transport::Dialled;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tracing::{error, info, warn};

use crate::control::ControlPlane;
use crate::follow::Follow;
use crate::iface::Selection;
use crate::lease::Lease;
use crate::left_behind::{self, LeftBehind};
use crate::metrics::{AgentMetrics, Measured};
use crate::peers::PeerSet;
use crate::reconcile::{Ends, Place, Reconcile};
use crate::session::{Session, Timing};
use crate::state::{StateDir, StateError};
use crate::status::{Applied, LeaseView, Link, Overview};
use crate::tasks::{Ended, Tasks};
use crate::{announce, boot, report, subnet_file};

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// At least one; the first one's subnet goes into the subnet file.
    pub networks: Vec<NetworkId>,
    /// Where its state is kept.
    pub state_dir: PathBuf,
    /// Where CNI plugins look; none: not written.
    pub subnet_file: Option<PathBuf>,
    /// Which interface to send over.
    pub selection: Selection,
    /// How long to wait for what.
    pub timing: Timing,
}

/// Who the agent is and how it reaches the control plane.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The name in the certificate of the channel.
    pub node: NodeId,
    /// Shared by all networks; connects by itself, again and again.
    pub channel: Channel,
    /// The addresses that the channel dials: no route of ours may cover them.
    pub dialled: Dialled,
}

/// An agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is nothing to do.
    #[error("no network is given")]
    NoNetwork,
    /// One network is given twice.
    #[error("the network {0} is given twice")]
    NetworkTwice(NetworkId),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The datapath of a network cannot be opened.
    #[error("the datapath of the network {network} cannot be opened")]
    Datapath {
        /// The network.
        network: NetworkId,
        /// Why not.
        source: loden_datapath::Error,
    },
    /// A task ended, which only a defect can bring about. Without it the agent
    /// would go on as if it did its job: it has to be started again.
    #[error("{0}; the agent ends and has to be started again, forwarding stays as it is")]
    TaskEnded(Ended),
}

/// An agent whose tasks run. Dropping it ends them; the datapath stays.
#[derive(Debug)]
pub struct Agent {
    tasks: Tasks,
    overviews: BTreeMap<NetworkId, watch::Receiver<Overview>>,
    readiness: watch::Receiver<Readiness>,
    metrics: Vec<Measured>,
    left_behind: watch::Receiver<LeftBehind>,
    _state: StateDir,
}

impl Agent {
    /// Starts the tasks. `open` gives each network its datapath.
    ///
    /// # Errors
    /// The configuration, the state directory or a datapath cannot be used.
    pub fn start<D: Datapath + Host>(
        config: AgentConfig,
        connection: &Connection,
        mut open: impl FnMut(&NetworkId) -> Result<D, loden_datapath::Error>,
    ) -> Result<Self, AgentError> {
        let Some(first) = config.networks.first().cloned() else { return Err(AgentError::NoNetwork) };
        let state = StateDir::open(&config.state_dir)?;
        let instance = state.instance(rand::random())?;
        let boot = boot::id()
            .inspect_err(|error| warn!(%error, "a copy of this state on another host will not be noticed"));
        let boot = boot.ok();
        info!(node = %connection.node, %instance, "agent started");
        let (changed, changes) = watch::channel(());
        let mut tasks = Tasks::default();
        let mut overviews = BTreeMap::new();
        let mut metrics = Vec::new();
        for network in &config.networks {
            if overviews.contains_key(network) {
                return Err(AgentError::NetworkTwice(network.clone()));
            }
            let datapath =
                open(network).map_err(|source| AgentError::Datapath { network: network.clone(), source })?;
            let name = LeaseName { network: network.clone(), node: connection.node.clone() };
            let control = ControlPlane::new(connection.channel.clone(), name, instance, boot);
            let writes = datapath.writes();
            let place = Place {
                node: connection.node.clone(),
                network: network.clone(),
                selection: config.selection.clone(),
                dialled: connection.dialled.clone(),
            };
            let parts = Parts { control, timing: config.timing, place, changed: changed.clone() };
            let overview = parts.spawn(&mut tasks, datapath, &state);
            metrics.push(Measured { network: network.clone(), overview: overview.clone(), writes });
            overviews.insert(network.clone(), overview);
        }
        let host = open(&first).map_err(|source| AgentError::Datapath { network: first.clone(), source })?;
        let served: BTreeSet<_> = config.networks.into_iter().collect();
        let (left, left_behind) = watch::channel(LeftBehind::new());
        tasks.spawn("networks left behind", left_behind::run(host, served, left));
        let (ready, readiness) = watch::channel(Readiness::no("starting"));
        let subnet = SubnetFile { path: config.subnet_file, network: first, written: None, looked: None };
        let seen = overviews.clone();
        tasks.spawn("readiness", judge(seen, changes, subnet, ready));
        Ok(Self { tasks, overviews, readiness, metrics, left_behind, _state: state })
    }

    /// Whether all networks forward, and why or why not.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// What is known of a network that the agent was given.
    #[must_use]
    pub fn overview(&self, network: &NetworkId) -> Option<watch::Receiver<Overview>> {
        self.overviews.get(network).cloned()
    }

    /// Adds the agent's metrics.
    pub fn register(&mut self, registry: &mut Registry) {
        registry.register_collector(Box::new(AgentMetrics {
            networks: std::mem::take(&mut self.metrics),
            left_behind: self.left_behind.clone(),
        }));
    }

    /// Runs until `shutdown` resolves; the datapath is left as it is.
    ///
    /// # Errors
    /// A task ended by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let ended = tokio::select! {
            () = shutdown => None,
            ended = self.tasks.ended() => Some(ended),
        };
        self.tasks.shutdown().await;
        ended.map_or(Ok(()), |ended| {
            error!(task = ended.task, panic = ended.panic, "a task has ended; the agent ends with it");
            Err(AgentError::TaskEnded(ended))
        })
    }
}

struct Parts {
    control: ControlPlane,
    timing: Timing,
    place: Place,
    changed: watch::Sender<()>,
}

impl Parts {
    /// The tasks of one network.
    fn spawn<D: Datapath + Host>(
        self,
        tasks: &mut Tasks,
        datapath: D,
        state: &StateDir,
    ) -> watch::Receiver<Overview> {
        let Self { control, timing, place, changed } = self;
        let (file, kept) = state.network(&place.network);
        let resume = kept.peers.as_ref().and_then(PeerSet::token).cloned();
        let (feed, fed) = mpsc::channel(4);
        let (view, lease) = watch::channel(LeaseView { held: kept.lease.clone(), ..LeaseView::default() });
        let (local, endpoint) = watch::channel(None);
        let (applied, programmed) = watch::channel(Applied::default());
        let (link, line) = watch::channel(Link::default());
        let (overview, seen) = watch::channel(Overview::default());
        let again = Arc::new(Notify::new());

        let network = place.network.clone();
        let named = |task: &str| format!("{task} of the network {network}");
        let failed = datapath.failed();
        tasks.spawn(named("the datapath"), failed);
        let ends = Ends { feed: fed, lease: lease.clone(), local, applied };
        let reconcile = Reconcile::new(place, ends, datapath, file, kept);
        tasks.spawn(named("reconcile"), reconcile.run());
        let keeper =
            Lease { control: control.clone(), timing, local: endpoint, view, again: Arc::clone(&again) };
        tasks.spawn(named("lease"), keeper.run());
        let session = Session::new(timing, resume, Instant::now());
        let follow = Follow { control: control.clone(), session, lease: lease.clone(), feed, link, again };
        tasks.spawn(named("follow"), follow.run());
        tasks.spawn(named("overview"), gather(programmed, lease, line, overview, changed));
        tasks.spawn(named("announce"), announce::run(network.clone(), seen.clone()));
        tasks.spawn(named("report"), report::run(control, network.clone(), seen.clone()));
        seen
    }
}

/// Joins the three views of a network.
async fn gather(
    mut applied: watch::Receiver<Applied>,
    mut lease: watch::Receiver<LeaseView>,
    mut link: watch::Receiver<Link>,
    overview: watch::Sender<Overview>,
    changed: watch::Sender<()>,
) {
    loop {
        overview.send_replace(Overview {
            applied: applied.borrow_and_update().clone(),
            lease: lease.borrow_and_update().clone(),
            link: link.borrow_and_update().clone(),
        });
        changed.send_replace(());
        let still = tokio::select! {
            still = applied.changed() => still,
            still = lease.changed() => still,
            still = link.changed() => still,
        };
        if still.is_err() {
            return;
        }
    }
}

struct SubnetFile {
    path: Option<PathBuf>,
    network: NetworkId,
    written: Option<String>,
    /// When the file was last compared with what is to be in it.
    looked: Option<Instant>,
}

impl SubnetFile {
    /// Writes what pods start from, when it differs from what was written.
    fn write(&mut self, overview: &Overview) -> io::Result<()> {
        let (Some(path), Some((held, network))) = (&self.path, &overview.applied.lease) else {
            return Ok(());
        };
        let text = subnet_file::render(network, &held.subnets, overview.applied.mtu);
        let looked = self.looked.replace(Instant::now());
        if self.written.as_ref() == Some(&text) && looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            self.looked = looked;
            return Ok(());
        }
        if subnet_file::write(path, &text)? {
            info!(path = %path.display(), "subnet file written");
        }
        self.written = Some(text);
        Ok(())
    }
}

/// Between attempts to write the subnet file.
const REWRITE: Duration = Duration::from_secs(1);
/// Between looks at a file that somebody may have removed or changed.
const LOOK: Duration = Duration::from_secs(2);

/// Tells whether the agent is ready. The subnet file comes before that, and
/// after forwarding works.
async fn judge(
    overviews: BTreeMap<NetworkId, watch::Receiver<Overview>>,
    mut changes: watch::Receiver<()>,
    mut subnet: SubnetFile,
    ready: watch::Sender<Readiness>,
) {
    loop {
        let mut now = Readiness::yes("");
        let mut unwritten = false;
        for (network, overview) in &overviews {
            let overview = overview.borrow().clone();
            let mut one = overview.readiness(network);
            if one.ready
                && *network == subnet.network
                && let Err(error) = subnet.write(&overview)
            {
                one = Readiness::no(format!("{network}: the subnet file cannot be written: {error}"));
                unwritten = true;
            }
            now.ready &= one.ready;
            if !now.detail.is_empty() {
                now.detail.push_str("; ");
            }
            now.detail.push_str(&one.detail);
        }
        ready.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            match (before.ready, now.ready) {
                (false, true) => info!(detail = now.detail, "ready"),
                (true, false) => warn!(detail = now.detail, "not ready"),
                _ => {}
            }
            *before = now;
            true
        });
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = sleep(if unwritten { REWRITE } else { LOOK }) => {}
        }
    }
}

#[cfg(test)]
mod tests;
