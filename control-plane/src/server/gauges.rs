//! What is read from the state when somebody asks for the metrics.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::time::Instant;

use crate::registry::Registry as Connections;
use crate::service::{Shared, active_leases};
use crate::store::Health;

/// Reads the state when `/metrics` is asked for.
pub(super) struct Gauges {
    pub(super) shared: Arc<Shared>,
    pub(super) connections: Connections,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shared = &self.shared;
        let healthy = matches!(*shared.clerk.store_health().borrow(), Health::Healthy);
        let (revision, networks, active, all, adopting) = shared.clerk.read(|ledger| {
            let adopting = ledger.is_adopting();
            let active = active_leases(ledger);
            (ledger.revision().0, ledger.networks().count(), active, ledger.lease_count(), adopting)
        });
        let unserved = shared.nodes.unserved(SystemTime::now());
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
            ("loden_nodes_refused", "Nodes that are refused a lease", count(unserved.refused)),
            ("loden_nodes_waiting", "Nodes that have to wait for a lease", count(unserved.waiting)),
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
        let ends = shared.signer.pki().authority().expires();
        for (name, help, time) in [
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
            (
                "loden_ca_expires",
                "When the CA that issues ends, since 1970",
                ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            ),
        ] {
            let time = ConstGauge::new(time.as_secs_f64());
            time.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), time.metric_type())?)?;
        }
        Ok(())
    }
}
