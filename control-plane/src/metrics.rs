//! What the control plane measures of itself.
//!
//! Counters are counted where things happen; gauges are read from the state when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::feed::FeedCounters;
use crate::registry::{EndReason, Registry as Connections};
use crate::service::access::Rpc;
use crate::service::{Shared, active_leases};
use crate::store::Health;

/// Counters that many parts count.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_turned_away: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) denied: Counter,
    connections_ended: Family<Reason, Counter>,
    calls: Family<Method, Counter>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

impl Metrics {
    /// We have ended a connection.
    pub(crate) fn ended(&self, reason: &EndReason) {
        self.connections_ended.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// A call has passed the door.
    pub(crate) fn called(&self, rpc: Rpc) {
        self.calls.get_or_create(&Method { method: rpc.method() }).inc();
    }

    /// Makes the feeds' counters visible.
    pub(crate) fn register_feeds(registry: &mut Registry, counters: &FeedCounters) {
        for (name, help, counter) in [
            ("loden_entry_encodings", "Peers encoded; once per change", &counters.entry_encodings),
            ("loden_snapshot_encodings", "Whole sets encoded", &counters.snapshot_encodings),
            ("loden_delta_encodings", "Deltas encoded", &counters.delta_encodings),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    /// Makes the counters visible. Every reason is there from the start, at 0.
    pub(crate) fn register(&self, registry: &mut Registry) {
        for label in EndReason::LABELS {
            let _ = self.connections_ended.get_or_create(&Reason { reason: label });
        }
        let opened = self.connections_opened.clone();
        registry.register("loden_connections_opened", "Connections that passed the TLS handshake", opened);
        let turned_away = self.connections_turned_away.clone();
        registry.register(
            "loden_connections_turned_away",
            "Connections closed because too many wait for their TLS handshake",
            turned_away,
        );
        let failed = self.handshakes_failed.clone();
        registry.register("loden_handshakes_failed", "TLS handshakes that failed", failed);
        let ended = self.connections_ended.clone();
        registry.register("loden_connections_ended", "Connections ended by the server, by reason", ended);
        registry.register("loden_calls", "Calls that the role table let through", self.calls.clone());
        registry.register("loden_calls_denied", "Calls that the role table refused", self.denied.clone());
    }
}

/// Reads the state when `/metrics` is asked for.
pub(crate) struct StateCollector {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Connections,
}

impl fmt::Debug for StateCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateCollector").finish_non_exhaustive()
    }
}

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shared = &self.shared;
        let healthy = matches!(*shared.clerk.store_health().borrow(), Health::Healthy);
        let (revision, networks, active, all, adopting) = shared.clerk.read(|ledger| {
            let adopting = ledger.cluster().is_some_and(|cluster| cluster.adopt_until.is_some());
            let active = active_leases(ledger);
            (ledger.revision().0, ledger.networks().count(), active, ledger.lease_count(), adopting)
        });
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let gauges = [
            ("loden_connections", "Open connections", count(self.connections.len())),
            ("loden_watches", "Open watches", count(shared.watches.len())),
            ("loden_streaming_leases", "Leases whose node watches", count(shared.streams.len())),
            ("loden_networks", "Networks", count(networks)),
            ("loden_leases_active", "Active leases", count(active)),
            ("loden_leases_held", "Expired leases kept for their node", count(all.saturating_sub(active))),
            (
                "loden_nodes_unconverged",
                "Nodes that have not programmed everything",
                count(shared.unconverged()),
            ),
            ("loden_store_healthy", "1 while the store takes writes", i64::from(healthy)),
            ("loden_store_revision", "Commits so far", i64::try_from(revision).unwrap_or(i64::MAX)),
            ("loden_adopting", "1 while leases are only taken over", i64::from(adopting)),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let held = ConstGauge::new(count(shared.held.bytes()));
        let help = "What is held for clients: calls under way and answers that are not read";
        held.encode(encoder.encode_descriptor(
            "loden_held",
            help,
            Some(&Unit::Bytes),
            held.metric_type(),
        )?)?;
        let now = Instant::now();
        for (name, help, lag) in [
            (
                "loden_watch_lag",
                "Longest time that a client has left its watch unread",
                shared.watches.worst_lag(now),
            ),
            (
                "loden_answer_lag",
                "Longest time that a client has left an answer unread",
                shared.held.worst_lag(now),
            ),
        ] {
            let lag = ConstGauge::new(lag.as_secs_f64());
            lag.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), lag.metric_type())?)?;
        }
        Ok(())
    }
}
