//! What the control plane counts of itself, where it happens; what is read from the state is `server::gauges`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::feed::FeedCounters;
use crate::registry::EndReason;

/// Counters that many parts count.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_turned_away: Counter,
    pub(crate) connections_aged: Counter,
    pub(crate) connections_shed: Counter,
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

    /// A call of this method has passed the door.
    pub(crate) fn called(&self, method: &'static str) {
        self.calls.get_or_create(&Method { method }).inc();
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
        let aged = self.connections_aged.clone();
        let help = "Connections whose client was asked to come back over another one, since they were old";
        registry.register("loden_connections_aged", help, aged);
        let shed = self.connections_shed.clone();
        let help =
            "Connections whose client was asked to come back elsewhere, since other replicas have fewer";
        registry.register("loden_connections_shed", help, shed);
        let failed = self.handshakes_failed.clone();
        registry.register("loden_handshakes_failed", "TLS handshakes that failed", failed);
        let ended = self.connections_ended.clone();
        registry.register("loden_connections_ended", "Connections ended by the server, by reason", ended);
        registry.register("loden_calls", "Calls that the role table let through", self.calls.clone());
        registry.register("loden_calls_denied", "Calls that the role table refused", self.denied.clone());
    }
}
