//! What becomes of the packets of UDP tunnels, and what these leave to the kernel.

use std::sync::Arc;

use loden_datapath::kernel::Tunnels;
use loden_datapath::tunnel::counters::{Counters, Loss};
use loden_datapath::{DeviceName, Rungs};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics;

/// All tunnels of the agent.
#[derive(Debug)]
pub struct TunnelMetrics(Tunnels);

/// One of them.
struct Measured {
    device: DeviceName,
    counters: Arc<Counters>,
    /// `None` when it has ended.
    rungs: Option<Rungs>,
}

impl TunnelMetrics {
    /// Of the tunnels of this process.
    #[must_use]
    pub const fn of(tunnels: Tunnels) -> Self {
        Self(tunnels)
    }

    fn measured(&self) -> Vec<Measured> {
        let engine = self.0.lock();
        let measured = engine.devices().filter_map(|device| {
            let counters = Arc::clone(engine.counters(device)?);
            Some(Measured { device, counters, rungs: engine.rungs(device) })
        });
        measured.collect()
    }

    fn strays(&self) -> Vec<(String, Arc<Counters>)> {
        let engine = self.0.lock();
        engine.strays().map(|(local, counters)| (local.to_string(), Arc::clone(counters))).collect()
    }
}

impl Collector for TunnelMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tunnels = self.measured();
        if tunnels.is_empty() {
            return Ok(());
        }
        let counter =
            |of: fn(&Counters) -> u64| move |measured: &Measured| ConstCounter::new(of(&measured.counters));
        for (name, help, of) in [
            ("packets_sent", "Packets sent to peers", Counters::sent as fn(&Counters) -> u64),
            ("sends", "Sends to peers: many packets at a time", Counters::sends),
            ("packets_received", "Packets of peers given to pods", Counters::received),
            ("writes", "Writes to the device: many packets at a time", Counters::writes),
            ("errors_told", "ICMP errors told to pods", Counters::told),
        ] {
            each(&mut encoder, &tunnels, name, help, counter(of))?;
        }
        let gauge = |of: fn(&Rungs) -> usize| {
            move |measured: &Measured| ConstGauge::new(measured.rungs.as_ref().map_or(0, of) as i64)
        };
        let up = |measured: &Measured| ConstGauge::new(i64::from(measured.rungs.is_some()));
        each(&mut encoder, &tunnels, "up", "Whether the tunnel runs", up)?;
        let help = "Whether the kernel merges what is received";
        each(
            &mut encoder,
            &tunnels,
            "receives_merged",
            help,
            gauge(|rungs| usize::from(!rungs.single_receives)),
        )?;
        let help = "Whether many packets may be sent at once";
        each(
            &mut encoder,
            &tunnels,
            "sends_gathered",
            help,
            gauge(|rungs| usize::from(!rungs.limits.single_sends)),
        )?;
        let help = "Peers that are sent each datagram by itself, though many at once are allowed";
        each(&mut encoder, &tunnels, "peers_sent_singly", help, gauge(|rungs| rungs.singly.len()))?;
        let help = "Peers to whom not all passes that the device hands out";
        each(&mut encoder, &tunnels, "peers_narrow", help, gauge(|rungs| rungs.narrow.len()))?;

        let (name, help) = ("loden_agent_tunnel_offload", "What the device hands out: 1 for what it is");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for Measured { device, rungs, .. } in &tunnels {
            let Some(rungs) = rungs else { continue };
            let offload = rungs.device.to_string();
            let labels = [("device", device.as_str()), ("offload", &offload)];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        let (name, help) = ("loden_agent_tunnel_packets_lost", "Packets that went no further");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for Measured { device, counters, .. } in &tunnels {
            for why in Loss::ALL {
                let labels = [("device", device.as_str()), ("reason", why.name())];
                ConstCounter::new(counters.lost(why)).encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, help) = ("loden_agent_tunnel_strays", "Datagrams to a port that are of no network");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (local, counters) in self.strays() {
            for why in Loss::ALL.into_iter().filter(|why| counters.lost(*why) > 0) {
                let labels = [("local", local.as_str()), ("reason", why.name())];
                ConstCounter::new(counters.lost(why)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn each<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    tunnels: &[Measured],
    name: &str,
    help: &str,
    metric: impl Fn(&Measured) -> M,
) -> Result<(), std::fmt::Error> {
    let name = format!("loden_agent_tunnel_{name}");
    metrics::each(encoder, tunnels, (&name, help), |measured| ("device", measured.device.as_str()), metric)
}
