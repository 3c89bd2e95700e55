//! What a server does beside answering: it ends slow clients, tells how it is, and renews its certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use loden_process::operations::Readiness;
use loden_transport::{Gate, ServerTls};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{error, info};

use crate::config::Config;
use crate::identity::Pki;
use crate::ledger::Knocked;
use crate::replicas::Note;
use crate::service::Shared;
use crate::store::Health;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the certificate's age and the CA's files are looked at, at least.
const CERTIFICATE: Duration = Duration::from_secs(10);
/// In how many parts of its life it is.
const PARTS: u32 = 20;

/// What readiness depends on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Facts {
    draining: bool,
    store_failure: Option<String>,
    adopting: Option<Duration>,
    settling: Option<Duration>,
    knocked: Option<Knocked>,
    networks: usize,
    watches: usize,
}

impl Facts {
    fn now(shared: &Shared) -> Self {
        let adopting = shared.clerk.read(|ledger| ledger.cluster()).and_then(|cluster| cluster.adopt_until);
        let left = |until: SystemTime| until.duration_since(SystemTime::now()).unwrap_or_default();
        Self {
            draining: shared.leaving.is_cancelled(),
            store_failure: match &*shared.clerk.store_health().borrow() {
                Health::Healthy => None,
                Health::Away { cause } | Health::Poisoned { cause } | Health::Recoverable { cause } => {
                    Some(cause.to_string())
                }
            },
            adopting: adopting.map(left),
            settling: shared.settling.remaining(Instant::now()),
            knocked: shared.knocked(Instant::now()),
            networks: shared.clerk.read(|ledger| ledger.networks().count()),
            watches: shared.watches.len(),
        }
    }

    /// A server that adopts or settles serves: what it holds back is by design.
    fn readiness(&self) -> Readiness {
        let time = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs() + 1));
        if self.draining {
            return Readiness::no("draining");
        }
        if let Some(cause) = &self.store_failure {
            return Readiness::no(format!("the store does not take writes: {cause}"));
        }
        let mut detail = format!("{} networks, {} watches", self.networks, self.watches);
        if self.adopting.is_some() && self.networks == 0 {
            detail.push_str("; adopting: the networks that were lost are to be created again");
        } else if let Some(left) = self.adopting {
            detail.push_str(&format!(
                "; adopting: leases held before the store was lost are collected for another {}",
                time(left)
            ));
        }
        if let Some(left) = self.settling {
            detail.push_str(&format!("; settling: new nodes wait another {}", time(left)));
        }
        if let Some(knocked) = &self.knocked {
            detail.push_str(&format!("; {}", knocked.consequence()));
        }
        Readiness::yes(detail)
    }
}

/// What this replica tells the others of itself.
pub(super) fn note(shared: &Shared, address: Option<String>) -> Note {
    let count = |count: usize| count.try_into().unwrap_or(u64::MAX);
    let unserved = shared.nodes.unserved(SystemTime::now());
    Note {
        clients: count(shared.registry.nodes().len()),
        serves: Facts::now(shared).readiness().ready,
        settled: shared.settling.remaining(Instant::now()).is_none(),
        converged: count(shared.convergence().here),
        watches: count(shared.watches.len()),
        refused: count(unserved.refused),
        waiting: count(unserved.waiting),
        address,
        knocked: shared.knocks.told(Instant::now()),
    }
}

/// Tells readiness to `/readyz` and to the gRPC health service.
pub(super) async fn tell(shared: Arc<Shared>, readiness: watch::Sender<Readiness>, reporter: HealthReporter) {
    let mut health = shared.clerk.store_health();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let facts = Facts::now(&shared);
        let now = facts.readiness();
        let status = if now.ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        if readiness.borrow().ready != now.ready {
            info!(ready = now.ready, detail = now.detail, "readiness changed");
            reporter.set_service_status("", status).await;
        }
        readiness.send_replace(now);
        tokio::select! {
            _ = look.tick() => {}
            () = shared.leaving.cancelled(), if !facts.draining => {}
            changed = health.changed() => if changed.is_err() {
                // The store is closed: the server is ending.
                return;
            }
        }
    }
}

/// Ends the connections of clients that do not read.
pub(super) async fn end_slow_clients(shared: Arc<Shared>, max_lag: Duration) {
    let mut look = interval((max_lag / 4).clamp(Duration::from_millis(20), Duration::from_secs(1)));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = Instant::now();
        shared.watches.end_slow(max_lag, now);
        shared.held.end_slow(max_lag, now);
    }
}

/// Renews the server's certificate when it is due; new connections get the new one.
pub(super) async fn renew_certificate(
    pki: Arc<Pki>,
    config: Config,
    gate: Arc<dyn Gate>,
    tls: Arc<ArcSwap<ServerTls>>,
) {
    let validity = config.certificate_validity;
    let mut look = interval(CERTIFICATE.min(validity / PARTS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = pki.changes();
    let mut current = None;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            Ok(()) = changes.changed() => {}
        }
        if let Err(error) = pki.refresh(SystemTime::now()) {
            error!(%error, "what is in the CA's directory cannot be used");
        }
        let bundle = match pki.server(&config.name, &config.advertise_names, validity, SystemTime::now()) {
            Ok(bundle) => bundle,
            Err(error) => {
                error!(%error, "the server's certificate cannot be renewed");
                continue;
            }
        };
        if current.as_ref() == Some(&bundle) {
            continue;
        }
        match ServerTls::new(&bundle, Some(Arc::clone(&gate))) {
            Ok(config) => tls.store(Arc::new(config)),
            Err(error) => error!(%error, "the renewed certificate cannot be used"),
        }
        current = Some(bundle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_holds_it_back() {
        let facts = Facts { networks: 2, watches: 3, ..Default::default() };
        assert_eq!(facts.readiness(), Readiness::yes("2 networks, 3 watches"));
        let failed = Facts { store_failure: Some("no space left".to_owned()), ..facts.clone() };
        assert_eq!(failed.readiness(), Readiness::no("the store does not take writes: no space left"));
        let busy = Facts {
            adopting: Some(Duration::from_secs(59)),
            settling: Some(Duration::from_secs(4)),
            ..facts.clone()
        };
        let busy = busy.readiness();
        assert!(busy.ready);
        assert!(busy.detail.contains("adopting") && busy.detail.contains("1m"), "{busy:?}");
        assert!(busy.detail.ends_with("settling: new nodes wait another 5s"), "{busy:?}");
        let adopting = Some(Duration::ZERO);
        let empty = Facts { adopting, networks: 0, watches: 0, ..facts.clone() }.readiness();
        assert!(empty.ready && empty.detail.ends_with("are to be created again"), "{empty:?}");
        let knocked = Knocked {
            last: "192.0.2.7:4711".parse().unwrap(),
            ago: Duration::from_secs(3),
            hosts: 1,
            remaining: Duration::from_secs(297),
        };
        let held = Facts { knocked: Some(knocked), ..facts.clone() }.readiness();
        let seen = "; 1 host knows another CA of this cluster (last seen: 192.0.2.7:4711, 3s ago); new nodes get \
                    no subnet: if the state directory was lost, run loden-control-plane recover";
        assert!(held.ready && held.detail.contains(seen), "{held:?}");
        assert_eq!(Facts { draining: true, ..facts }.readiness(), Readiness::no("draining"));
    }
}
