//! The whole control plane, started and stopped as one value.
//!
//! ```text
//!  Config ─▶ pki ─▶ store ─▶ clerk ─▶ feeds ─▶ listen ─▶ Server
//!                                                │  accept · slow clients · readiness · certificate
//!  shutdown ─▶ not ready ─▶ accept no more ─▶ per connection: GOAWAY, watches end UNAVAILABLE ─▶ reset the rest
//! ```

mod cut_off;
mod drain;
mod error;
mod fleet;
mod gauges;
mod housekeeping;
mod opened;
mod shedding;
mod stops;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use loden_process::operations::{self, Readiness};
use loden_transport::{Gate, ServerTls};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use self::drain::{Drain, Timetable};
pub use self::error::StartError;
use self::fleet::Announce;
use self::gauges::Gauges;
use self::opened::Opened;
use self::stops::Stops;
use crate::adoption::{Adoption, AdoptionOptions};
use crate::clerk::{Clerk, ClerkError, ClerkOptions, Settling, WallClock};
use crate::colleagues::Colleagues;
use crate::config::{Config, StoreAddress};
use crate::connection::{Acceptor, Patience};
use crate::expiry;
use crate::feed::{FeedOptions, Feeds, TokenKey};
use crate::gate::{self, Keeper};
use crate::held::Held;
use crate::identity::{Pki, Signer};
use crate::joins::Limits;
use crate::knocks::Knocks;
use crate::ledger::Defaults;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::replicas;
use crate::service::{Door, Inquiries, Shared, Watches};
use crate::sharing::{Opening, Sharing};
use crate::status::Nodes;
use crate::store::{Cause, EtcdStore, Health, Options, SledStore, Store};
use crate::watch::Streams;

/// How often expiry looks at the leases; a tenth of the shortest lease.
const EXPIRY: Duration = Duration::from_secs(1);

/// A running control plane. Dropping it ends it without a farewell.
#[derive(Debug)]
pub struct Server {
    listen: SocketAddr,
    operations: SocketAddr,
    shared: Arc<Shared>,
    connections: TaskTracker,
    tasks: TaskTracker,
    /// Over what time clients are asked to go.
    drain: Duration,
    /// A task that a defect of ours has ended.
    died: watch::Sender<Option<&'static str>>,
    stops: Stops,
    clerk: Clerk,
    /// Ours to close, if we have opened it.
    store: Option<Opened>,
}

/// Why a server cannot go on by itself.
#[derive(Debug)]
pub enum Ending {
    /// The store had failed and is worth opening anew, by a new process; with what had failed.
    StoreRecoverable(Cause),
    /// The ledger no longer follows the store: nothing that is served is true any more.
    StoreLost(ClerkError),
    /// A defect has ended one of its tasks, which is named: without it the server would only look alive.
    TaskDied(&'static str),
}

/// The parts of a server that serves, before it is put together.
struct Parts {
    ports: Ports,
    pki: Arc<Pki>,
    clerk: Clerk,
    shared: Arc<Shared>,
    fleet: Fleet,
}

/// How other control planes on the same store are heard and told.
struct Fleet {
    hearing: BoxFuture<'static, ()>,
    announce: Announce,
}

/// What is listened on. The first thing of a start: a second server on this host fails before it has changed
/// anything.
struct Ports {
    listener: TcpListener,
    operations: TcpListener,
}

impl Ports {
    async fn listen(config: &Config) -> Result<Self, StartError> {
        let listener = listen("listen", config.listen).await?;
        let operations = listen("operations", config.operations).await?;
        Ok(Self { listener, operations })
    }
}

impl Server {
    /// Starts with the store in the state directory.
    ///
    /// # Errors
    /// Names the flag or file that is wrong.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let ports = Ports::listen(&config).await?;
        match config.store() {
            StoreAddress::Sled(directory) => {
                let opening = Opening::alone(&config)?;
                let store = Arc::new(SledStore::open(&directory, Options::default()).await?);
                let mut server = Self::start_on(config, ports, (opening, None), Arc::clone(&store)).await?;
                server.store = Some(Opened::Sled(store));
                Ok(server)
            }
            StoreAddress::Etcd(address) => {
                let sharing = Sharing::of(&config)?;
                let store = EtcdStore::open(&config.store.etcd(&address)?, config.name.as_str()).await?;
                let store = Arc::new(store);
                let opening = match &sharing {
                    Some(sharing) => sharing.open(&*store, &config).await?,
                    None => Opening::alone(&config)?,
                };
                let mut server =
                    Self::start_on(config, ports, (opening, sharing), Arc::clone(&store)).await?;
                server.store = Some(Opened::Etcd(store));
                Ok(server)
            }
        }
    }

    /// Starts with a given store; the identities are in the state directory.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with<S: Store>(config: Config, store: Arc<S>) -> Result<Self, StartError> {
        let ports = Ports::listen(&config).await?;
        let opening = Opening::alone(&config)?;
        Self::start_on(config, ports, (opening, None), store).await
    }

    /// Where gRPC is served.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[must_use]
    pub const fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// Resolves when the server cannot go on by itself.
    pub async fn ended(&mut self) -> Ending {
        let health = self.shared.clerk.store_health();
        let mut died = self.died.subscribe();
        tokio::select! {
            // The sender is ours, so it does not go first.
            Ok(died) = died.wait_for(Option::is_some) => Ending::TaskDied(died.unwrap_or_default()),
            cause = recoverable(health) => Ending::StoreRecoverable(cause),
            error = self.clerk.ended() => Ending::StoreLost(error),
        }
    }

    /// Lets the clients go and ends, a few seconds after the time for that.
    pub async fn shutdown(self) {
        let elsewhere = replicas::any_serves(&self.shared.others.borrow());
        let times = Timetable { window: self.drain, elsewhere };
        let (accepting, connections) = (&self.stops.accepting, &self.connections);
        let drain = Drain { shared: &self.shared, accepting, connections, times };
        drain.run(sleep(times.notice())).await;
        self.stops.tasks.cancel();
        self.stops.operations.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        drop(self.clerk);
        if let Some(store) = self.store {
            store.close().await;
        }
    }

    async fn start_on<S: Store>(
        config: Config,
        ports: Ports,
        (Opening { pki, key_came_with_store }, sharing): (Opening, Option<Sharing>),
        store: Arc<S>,
    ) -> Result<Self, StartError> {
        pki.note_life(config.certificate_validity)?;
        let pki = Arc::new(pki);
        let (others, hearing) = fleet::hear(&*store);
        let knocks = Knocks::noted(pki.unproven_note()).among(others.clone());
        let options = FeedOptions { heartbeat: config.heartbeat, ..FeedOptions::default() };
        let feeds = Feeds::new(TokenKey::new(&pki.token_key()?), knocks.clone(), options);
        let (streams, settling) = (Streams::default(), Settling::default());
        let now: WallClock = Arc::new(SystemTime::now);
        let clerk_options = ClerkOptions {
            defaults: defaults(&config),
            streaming: Arc::new(streams.clone()),
            settling: settling.clone(),
            knocks: knocks.clone(),
            now: Arc::clone(&now),
        };
        let fleet = Fleet { hearing: Box::pin(hearing), announce: fleet::announce(&store) };
        let (clerk, handle) = Clerk::start(store, feeds.clone(), clerk_options).await?;
        let adoption_options = AdoptionOptions {
            adopt: config.adopt_for,
            settle: config.settle,
            marker: pki.incarnation_marker(),
            key_came_with_store,
            knocks: knocks.clone(),
            others: others.clone(),
        };
        let keeper = Keeper::new(handle.clone(), Arc::clone(&pki));
        let adoption =
            Adoption::start(handle.clone(), feeds.clone(), streams.clone(), &settling, adoption_options, now);
        let shared = Arc::new(Shared {
            cluster: config.cluster.clone(),
            clerk: handle,
            adoption: adoption.await?,
            feeds,
            streams,
            settling,
            knocks,
            nodes: Nodes::default(),
            watches: Watches::default(),
            held: Held::default(),
            registry: Registry::default(),
            signer: Signer::new(Arc::clone(&pki), config.certificate_validity),
            keeper,
            sharing,
            colleagues: Colleagues::new(Arc::clone(&pki), config.name.clone(), others.clone()),
            inquiries: Inquiries::default(),
            others,
            limits: Limits::default(),
            audit: Arc::default(),
            metrics: Arc::new(Metrics::default()),
            started: SystemTime::now(),
            leaving: CancellationToken::new(),
        });
        Self::put_together(config, Parts { ports, pki, clerk, shared, fleet })
    }

    fn put_together(config: Config, parts: Parts) -> Result<Self, StartError> {
        let Parts { ports: Ports { listener, operations }, pki, clerk, shared, fleet } = parts;
        let validity = config.certificate_validity;
        let bundle = pki.server(&config.name, &config.advertise_names, validity, SystemTime::now())?;
        let gate: Arc<dyn Gate> = Arc::new(shared.keeper.clone());
        let tls = ServerTls::new(&bundle, Some(Arc::clone(&gate)))?;
        let tls = Arc::new(ArcSwap::from_pointee(tls));
        let (reporter, health) = tonic_health::server::health_reporter();
        let door = Door::new(&shared, health)?;
        let server = Self {
            listen: address(&listener, config.listen),
            operations: address(&operations, config.operations),
            shared: Arc::clone(&shared),
            connections: TaskTracker::new(),
            tasks: TaskTracker::new(),
            drain: config.clients.drain,
            died: watch::Sender::default(),
            stops: Stops::of(&shared.registry),
            clerk,
            store: None,
        };
        let (tell, readiness) = watch::channel(Readiness::no("starting"));
        let acceptor = Acceptor {
            tls: Arc::clone(&tls),
            cluster: config.cluster.clone(),
            knocks: shared.knocks.clone(),
            registry: server.stops.registry.clone(),
            service: door,
            metrics: Arc::clone(&shared.metrics),
            audit: Arc::clone(&shared.audit),
            keeper: Some(shared.keeper.clone()),
            nodes: shared.nodes.clone(),
            tasks: server.connections.clone(),
            patience: Patience::until(config.clients.max_connection_age),
            balancers: config.clients.proxy_protocol.clone(),
        };
        server.run("accepting", acceptor.run(listener, server.stops.accepting.clone()));
        server.run("readiness", housekeeping::tell(Arc::clone(&shared), tell, reporter));
        server.run("slow clients", housekeeping::end_slow_clients(Arc::clone(&shared), config.max_lag));
        let others = shared.others.clone();
        server.run("shedding", shedding::run(Arc::clone(&shared), others, shedding::Pace::default()));
        server.run("cut off", cut_off::run(Arc::clone(&shared)));
        server.run("adoption", shared.adoption.clone().run(shared.settling.clone()));
        let (clerk, streams) = (shared.clerk.clone(), shared.streams.clone());
        let now = Arc::new(SystemTime::now);
        let others = Arc::clone(&shared);
        server.run("expiry", expiry::run(clerk, streams, config.lease_ttl, now, EXPIRY, others));
        server.run("other replicas", fleet.hearing);
        let address = config.replica_address.as_ref().map(ToString::to_string);
        server.run("replica's note", fleet::tell(Arc::clone(&shared), address, fleet.announce));
        server.run("gate", gate::run(Arc::clone(&shared)));
        if let Some(sharing) = shared.sharing.clone() {
            let knocks = shared.knocks.clone();
            server.run("shared CA", sharing.run(shared.clerk.clone(), Arc::clone(&pki), knocks));
        }
        server.run("certificate", housekeeping::renew_certificate(pki, config, gate, tls));
        server.serve_operations(operations, readiness);
        info!(listen = %server.listen, operations = %server.operations, id = %bundle.id(), "serving");
        Ok(server)
    }

    /// Runs a task as long as the server is not told to end; the server ends if it panics.
    fn run(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stops.tasks.clone();
        let died = self.died.clone();
        self.tasks.spawn(async move {
            // What it shares with others is behind locks that bear a panic.
            let ended = AssertUnwindSafe(stop.run_until_cancelled_owned(task)).catch_unwind();
            if ended.await.is_err() {
                error!(task = name, "a task of the server has panicked");
                died.send_replace(Some(name));
            }
        });
    }

    fn serve_operations(&self, listener: TcpListener, readiness: watch::Receiver<Readiness>) {
        let mut registry = MetricsRegistry::default();
        self.shared.metrics.register(&mut registry);
        Metrics::register_feeds(&mut registry, self.shared.feeds.counters());
        registry.register_collector(Box::new(Gauges {
            shared: Arc::clone(&self.shared),
            connections: self.stops.registry.clone(),
        }));
        let stop = self.stops.operations.clone();
        let served =
            operations::serve(listener, readiness, Arc::new(Mutex::new(registry)), stop.cancelled_owned());
        self.tasks.spawn(async move {
            if let Err(error) = served.await {
                error!(%error, "operations HTTP has ended");
            }
        });
    }
}

async fn recoverable(mut health: watch::Receiver<Health>) -> Cause {
    loop {
        if let Health::Recoverable { cause } = &*health.borrow_and_update() {
            return cause.clone();
        }
        if health.changed().await.is_err() {
            // The store is gone; the ledger says so.
            std::future::pending::<()>().await;
        }
    }
}

fn defaults(config: &Config) -> Defaults {
    Defaults {
        lease_ttl: config.lease_ttl,
        cooldown: config.cooldown,
        adopt: config.adopt_for,
        vnis: config.vni_ranges.iter().map(|range| range.0.clone()).collect(),
        allow_loopback: config.allow_loopback_underlay,
    }
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { flag, address, source })
}

/// The address that was bound, with its port.
fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
