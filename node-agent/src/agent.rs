//! The tasks of an agent and the channels between them.
//!
//! ```text
//!             per network
//!  lease ◀──endpoint── reconcile ◀──feed── follow      one connection for all
//!    │ ◀─what is lacking── │  ◀── file, kernel ──▶
//!    └──────view──────▶   │
//!                         └──▶ overview ──▶ report, /readyz, /metrics, agent.sock, subnet.env
//! ```
//!
//! The datapath, the connection and the end come in from outside: a test can
//! be `main` too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use loden_datapath::firewall::Firewall;
use loden_datapath::{Datapath, Host};
use loden_process::operations::Readiness;
use loden_proto::model::{LeaseName, Port};
use loden_proto::names::{NetworkId, NodeId};
use loden_transport::{Dialled, Origins};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::channels::Channels;
use crate::control::ControlPlane;
use crate::firewall::{Keeper, Seat};
use crate::follow::Follow;
use crate::give_back::GiveBack;
use crate::heirs::{Claims, Household, Siblings};
use crate::iface::Selection;
use crate::lease::Lease;
use crate::left_behind::{self, LeftBehind};
use crate::metrics::{AgentMetrics, Measured};
use crate::peers::PeerSet;
use crate::readiness::{self, Handouts, Judged};
use crate::reconcile::{Ends, Place, Reconcile};
use crate::session::{Session, Timing};
use crate::state::{Kept, NetworkFile, StateDir, StateError};
use crate::status::{Applied, Files, Filter, LeaseView, Link, Overview};
use crate::tasks::{Ended, Tasks};
use crate::{announce, boot, report};

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// At least one; the first one's subnet goes into the subnet file.
    pub networks: Vec<NetworkId>,
    /// Where its state is kept.
    pub state_dir: PathBuf,
    /// Where CNI plugins look; none: not written.
    pub subnet_file: Option<PathBuf>,
    /// Where container runtimes look for CNI configurations; none: no network's is written.
    pub cni_config_dir: Option<PathBuf>,
    /// Put rules of ours into chains of others that would drop our packets.
    pub firewall_insert: bool,
    /// Drop what is for the node's subnets and for no pod.
    pub blackhole_route: bool,
    /// The port of UDP tunnels, where it is not the network's.
    pub udp_port: Option<Port>,
    /// Which interface to send over.
    pub selection: Selection,
    /// How long to wait for what.
    pub timing: Timing,
}

/// Who the agent is and how it reaches the control plane.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The name in the certificate of the channels.
    pub node: NodeId,
    /// Shared by all networks; connects by itself, again and again.
    pub channels: Channels,
    /// The addresses that the channel dials: no route of ours may cover them.
    pub dialled: Dialled,
    /// Its connections: those from an address that this host loses end.
    pub origins: Origins,
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
    /// Starts the tasks. `open` gives each network its datapath; `firewall` is the host's.
    ///
    /// # Errors
    /// The configuration, the state directory or a datapath cannot be used.
    pub fn start<D: Datapath + Host>(
        config: AgentConfig,
        connection: &Connection,
        firewall: impl Firewall,
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
        let mut seats = BTreeMap::new();
        let mut judged = BTreeMap::new();
        let mut metrics = Vec::new();
        let handouts = Handouts::new(&config);
        let claims = watch::Sender::new(Claims::new());
        let served: BTreeSet<_> = config.networks.iter().cloned().collect();
        let household =
            Arc::new(Household { left: left_behind::pools(&state, &served), served: served.clone() });
        for network in &config.networks {
            if overviews.contains_key(network) {
                return Err(AgentError::NetworkTwice(network.clone()));
            }
            let datapath =
                open(network).map_err(|source| AgentError::Datapath { network: network.clone(), source })?;
            let name = LeaseName { network: network.clone(), node: connection.node.clone() };
            let control = ControlPlane::new(connection.channels.clone(), name, instance, boot);
            let writes = datapath.writes();
            let place = Place {
                node: connection.node.clone(),
                network: network.clone(),
                selection: config.selection.clone(),
                blackhole: config.blackhole_route,
                udp_port: config.udp_port,
                dialled: connection.dialled.clone(),
                origins: connection.origins.clone(),
            };
            let (filter, filtered) = watch::channel(Filter::default());
            let (files, filed) = watch::channel(Files::default());
            let changed = changed.clone();
            let siblings = Siblings::new(network.clone(), Arc::clone(&household), &claims);
            let parts = Parts { control, timing: config.timing, place, siblings, filtered, filed, changed };
            let (file, kept) = state.network(network);
            if kept.lease.is_none() {
                handouts.withdraw(network);
            }
            let overview = parts.spawn(&mut tasks, datapath, file, kept);
            seats.insert(network.clone(), Seat { overview: overview.clone(), filter });
            judged.insert(network.clone(), Judged { overview: overview.clone(), files });
            metrics.push(Measured { network: network.clone(), overview: overview.clone(), writes });
            overviews.insert(network.clone(), overview);
        }
        let host = open(&first).map_err(|source| AgentError::Datapath { network: first.clone(), source })?;
        let (left, left_behind) = watch::channel(LeftBehind::new());
        tasks.spawn("networks left behind", left_behind::run(host, served, left));
        let keeper = Keeper::new(firewall, seats, config.firewall_insert, state.table());
        tasks.spawn("the packet filter", keeper.run(changes.clone()));
        let (ready, readiness) = watch::channel(Readiness::no("starting"));
        tasks.spawn("readiness", readiness::judge(judged, changes, handouts, ready));
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
    siblings: Siblings,
    filtered: watch::Receiver<Filter>,
    filed: watch::Receiver<Files>,
    changed: watch::Sender<()>,
}

impl Parts {
    /// The tasks of one network.
    fn spawn<D: Datapath + Host>(
        self,
        tasks: &mut Tasks,
        datapath: D,
        file: NetworkFile,
        kept: Kept,
    ) -> watch::Receiver<Overview> {
        let Self { control, timing, place, siblings, filtered, filed, changed } = self;
        let resume = kept.peers.as_ref().and_then(PeerSet::token).cloned();
        let (feed, fed) = mpsc::channel(4);
        let (view, lease) = watch::channel(LeaseView { held: kept.lease.clone(), ..LeaseView::default() });
        let (local, endpoint) = watch::channel(None);
        let (wanting, lacking) = watch::channel(None);
        let (applied, programmed) = watch::channel(Applied::default());
        let (link, line) = watch::channel(Link::default());
        let (overview, seen) = watch::channel(Overview::default());
        let again = Arc::new(Notify::new());

        let network = place.network.clone();
        let named = |task: &str| format!("{task} of the network {network}");
        let failed = datapath.failed();
        tasks.spawn(named("the datapath"), failed);
        let ends =
            Ends { feed: fed, lease: lease.clone(), view: view.clone(), siblings, local, wanting, applied };
        let reconcile = Reconcile::new(place, ends, datapath, file, kept);
        tasks.spawn(named("reconcile"), reconcile.run());
        let keeper = Lease {
            control: control.clone(),
            timing,
            local: endpoint,
            view,
            lacking,
            link: line.clone(),
            again: Arc::clone(&again),
            giving: GiveBack::default(),
        };
        tasks.spawn(named("lease"), keeper.run());
        let session = Session::new(timing, resume, Instant::now());
        let follow = Follow { control: control.clone(), session, lease: lease.clone(), feed, link, again };
        tasks.spawn(named("follow"), follow.run());
        let views = Views { applied: programmed, lease, link: line, filter: filtered, files: filed };
        tasks.spawn(named("overview"), gather(views, overview, changed));
        tasks.spawn(named("announce"), announce::run(network.clone(), seen.clone()));
        tasks.spawn(named("report"), report::run(control, network.clone(), seen.clone()));
        seen
    }
}

/// The parts of what is known of a network.
struct Views {
    applied: watch::Receiver<Applied>,
    lease: watch::Receiver<LeaseView>,
    link: watch::Receiver<Link>,
    filter: watch::Receiver<Filter>,
    files: watch::Receiver<Files>,
}

/// Joins the views of a network.
async fn gather(mut views: Views, overview: watch::Sender<Overview>, changed: watch::Sender<()>) {
    loop {
        overview.send_replace(Overview {
            applied: views.applied.borrow_and_update().clone(),
            lease: views.lease.borrow_and_update().clone(),
            link: views.link.borrow_and_update().clone(),
            filter: views.filter.borrow_and_update().clone(),
            files: views.files.borrow_and_update().clone(),
        });
        changed.send_replace(());
        let still = tokio::select! {
            still = views.applied.changed() => still,
            still = views.lease.changed() => still,
            still = views.link.changed() => still,
            still = views.filter.changed() => still,
            still = views.files.changed() => still,
        };
        if still.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
