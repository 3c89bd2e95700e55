//! The agent's metrics, read when they are asked for.

use std::time::UNIX_EPOCH;

use loden_datapath::Writes;
use loden_proto::names::NetworkId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use crate::left_behind::LeftBehind;
use crate::status::{Overview, Source};

/// Most peers that are named in a network: each is a time series.
const PEERS_NAMED: usize = 100;

/// What one network is measured by.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) network: NetworkId,
    pub(crate) overview: watch::Receiver<Overview>,
    pub(crate) writes: Writes,
}

/// The whole agent.
#[derive(Debug)]
pub(crate) struct AgentMetrics {
    pub(crate) networks: Vec<Measured>,
    pub(crate) left_behind: watch::Receiver<LeftBehind>,
}

impl Collector for AgentMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = |of: fn(&Overview) -> f64| {
            move |measured: &Measured| ConstGauge::new(of(&measured.overview.borrow()))
        };
        let ready = |measured: &Measured| {
            ConstGauge::new(i64::from(measured.overview.borrow().readiness(&measured.network).ready))
        };
        let peers = gauge(|overview| overview.applied.peers as f64);
        let failures = gauge(|overview| overview.applied.failures.len() as f64);
        let waiting = gauge(|overview| overview.applied.waiting as f64);
        let warnings = gauge(|overview| overview.warnings().count() as f64);
        let from_server =
            gauge(|overview| f64::from(u8::from(overview.applied.source == Some(Source::Server))));
        let connected = gauge(|overview| f64::from(u8::from(overview.link.connected)));
        let pass = gauge(|overview| overview.applied.last_pass.as_secs_f64());
        let opened = |measured: &Measured| ConstCounter::new(measured.overview.borrow().link.opened);
        let writes = |measured: &Measured| ConstCounter::new(measured.writes.count());

        self.each(
            &mut encoder,
            "loden_agent_ready",
            "Whether a whole set is in the kernel and the files for pods are written",
            ready,
        )?;
        self.each(&mut encoder, "loden_agent_peers", "Peers programmed", peers)?;
        self.each(&mut encoder, "loden_agent_peers_left_out", "Peers refused or not programmed", failures)?;
        self.each(&mut encoder, "loden_agent_peers_waiting", "Peers not ready to receive yet", waiting)?;
        self.each(&mut encoder, "loden_agent_warnings", "Warnings, as in /readyz", warnings)?;
        let help = "Whether the control plane has confirmed the peers; otherwise they are from disk";
        self.each(&mut encoder, "loden_agent_peers_from_server", help, from_server)?;
        self.each(&mut encoder, "loden_agent_connected", "Whether the watch is open", connected)?;
        self.each(&mut encoder, "loden_agent_last_pass_seconds", "How long the last full pass took", pass)?;
        self.each(&mut encoder, "loden_agent_watches_opened", "Watches opened", opened)?;
        self.each(&mut encoder, "loden_agent_kernel_writes", "Requests to write sent to the kernel", writes)?;
        let help = "Steps of passes and changes that the kernel refused";
        let refused =
            |measured: &Measured| ConstCounter::new(measured.overview.borrow().applied.done.refused);
        self.each(&mut encoder, "loden_agent_steps_refused", help, refused)?;
        self.passes(&mut encoder)?;
        self.peers_left_out(&mut encoder)?;
        let (name, help) = ("loden_agent_devices_left_behind", "Devices of networks that are not served");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (network, devices) in self.left_behind.borrow().iter() {
            let labels = [("network", network.as_str())];
            ConstGauge::new(devices.len() as f64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl AgentMetrics {
    /// Whole passes over the kernel, by why. A network that somebody else works against has many for drift.
    fn passes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("loden_agent_passes", "Full passes over the kernel");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for measured in &self.networks {
            for (reason, count) in &measured.overview.borrow().applied.done.passes {
                let labels = [("network", measured.network.as_str()), ("reason", *reason)];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn each<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        metric: impl Fn(&Measured) -> M,
    ) -> Result<(), std::fmt::Error> {
        each(encoder, &self.networks, (name, help), |measured| ("network", measured.network.as_str()), metric)
    }

    /// Who is left out and why, and since when.
    fn peers_left_out(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = "loden_agent_peer_left_out_since_timestamp_seconds";
        let help = "When a peer was first refused or not programmed, in seconds of Unix time";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for measured in &self.networks {
            let overview = measured.overview.borrow();
            for (peer, failure) in overview.applied.failures.iter().take(PEERS_NAMED) {
                let reason = failure.message.as_str();
                let labels = [("network", measured.network.as_str()), ("peer", peer), ("reason", reason)];
                let since = failure.since.duration_since(UNIX_EPOCH).unwrap_or_default();
                ConstGauge::new(since.as_secs_f64()).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// A metric of each of `all`, which a label names.
pub(crate) fn each<T, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[T],
    (name, help): (&str, &str),
    label: impl Fn(&T) -> (&'static str, &str),
    metric: impl Fn(&T) -> M,
) -> Result<(), std::fmt::Error> {
    let Some(first) = all.first() else { return Ok(()) };
    let mut family = encoder.encode_descriptor(name, help, None, metric(first).metric_type())?;
    for one in all {
        metric(one).encode(family.encode_family(&[label(one)])?)?;
    }
    Ok(())
}
