//! What each path carries, and ours beside the others.

use std::time::Duration;

use super::super::carry::{Path, flow, rtt, udp};
use super::super::metric::quantile;
use super::super::{Better, Metric, NoRuns, Scale, Series};
use super::stage::{NAIVE, RAW, UDP, VXLAN};

/// Echo requests per run.
const ECHOES: usize = 20_000;
/// From the first byte of a flow to the first that counts.
const WARM_UP: Duration = Duration::from_millis(200);

/// The runs of one path.
pub(super) struct Measured {
    path: &'static str,
    tcp1: Series,
    tcp4: Series,
    udp200: Series,
    rtt_p50: Series,
    rtt_p99: Series,
}

impl Measured {
    pub(super) fn new(path: &'static str) -> Self {
        Self {
            path,
            tcp1: Series::default(),
            tcp4: Series::default(),
            udp200: Series::default(),
            rtt_p50: Series::default(),
            rtt_p99: Series::default(),
        }
    }

    /// One run; answers a line about it.
    pub(super) async fn measure(&mut self, path: &Path, scale: &Scale) -> anyhow::Result<String> {
        // Last the flood: what waits of it in queues is in nobody's way then.
        let trips = rtt::round_trips(path, scale.count(ECHOES)).await?;
        let tcp1 = tcp(path, 1, scale.slice()).await?;
        let tcp4 = tcp(path, 4, scale.slice()).await?;
        let udp = udp::flood(path, scale.slice()).await?;
        let micros = |part| quantile(&trips, part).unwrap_or_default();
        self.tcp1.push(tcp1);
        self.tcp4.push(tcp4);
        self.udp200.push(udp.per_second);
        self.rtt_p50.push(micros(0.5));
        self.rtt_p99.push(micros(0.99));
        Ok(format!(
            "{:6} {tcp1:5.2} Gbit/s, 4 flows {tcp4:5.2}, {:6.0} packets/s, round trip {:.1} µs",
            path.name,
            udp.per_second,
            micros(0.5)
        ))
    }
}

async fn tcp(path: &Path, streams: usize, time: Duration) -> anyhow::Result<f64> {
    let flow = flow::Flow::start(path, streams, false).await?;
    tokio::time::sleep(WARM_UP).await;
    let carried = flow.watch(time).await?;
    flow.stop().await?;
    Ok(carried.gbit_per_second)
}

/// One figure: its name, unit, direction, what it is compared with, where it is.
type Figure = (&'static str, &'static str, Better, &'static str, fn(&Measured) -> &Series);

const FIGURES: [Figure; 7] = [
    ("tcp1_vs_vxlan", "Gbit/s", Better::Higher, VXLAN, |path| &path.tcp1),
    ("tcp1_vs_naive", "Gbit/s", Better::Higher, NAIVE, |path| &path.tcp1),
    ("tcp4_vs_vxlan", "Gbit/s", Better::Higher, VXLAN, |path| &path.tcp4),
    ("rtt_p50_vs_vxlan", "µs", Better::Lower, VXLAN, |path| &path.rtt_p50),
    ("rtt_p99_vs_vxlan", "µs", Better::Lower, VXLAN, |path| &path.rtt_p99),
    ("udp200_vs_naive", "packets/s", Better::Higher, NAIVE, |path| &path.udp200),
    ("udp200_vs_vxlan", "packets/s", Better::Higher, VXLAN, |path| &path.udp200),
];

/// Ours beside the others, and the bare path for whoever wants to know what there is.
pub(super) fn metrics(all: &[Measured], suffix: &str) -> Result<Vec<Metric>, NoRuns> {
    let empty = Measured::new("");
    let named = |name: &str| all.iter().find(|path| path.path == name).unwrap_or(&empty);
    let ours = named(UDP);
    let mut metrics = vec![Metric::alone(&format!("tcp1_raw{suffix}"), "Gbit/s", &named(RAW).tcp1)?];
    for (figure, unit, better, baseline, of) in FIGURES {
        let name = format!("{figure}{suffix}");
        metrics.push(Metric::against(&name, unit, better, of(ours), (baseline, of(named(baseline))))?);
    }
    Ok(metrics)
}
