//! What each path carries: the same figures of all of them, beside the bare path's.

use std::time::Duration;

use super::super::carry::flow::{Carried, Flow, Rates};
use super::super::carry::{Path, rtt, udp};
use super::super::metric::quantile;
use super::super::{Better, Metric, NoRuns, Scale, Series};
use super::paths;

const RAW_PATH: &str = "raw: host to host";
/// Echo requests per run.
const ECHOES: usize = 20_000;
/// From the first byte of a flow to the first that counts.
const WARM_UP: Duration = Duration::from_millis(50);

/// The runs of one path.
pub(super) struct Measured {
    path: &'static str,
    tcp1: Rates,
    tcp4: Rates,
    udp200: Series,
    rtt_p50: Series,
    rtt_p99: Series,
    cpu_udp200: Series,
}

impl Measured {
    pub(super) fn new(path: &'static str) -> Self {
        Self {
            path,
            tcp1: Rates::default(),
            tcp4: Rates::default(),
            udp200: Series::default(),
            rtt_p50: Series::default(),
            rtt_p99: Series::default(),
            cpu_udp200: Series::default(),
        }
    }

    /// One run; answers a line about it.
    pub(super) async fn measure(&mut self, path: &Path, scale: &Scale) -> anyhow::Result<String> {
        let tcp1 = tcp(path, 1, scale.slice()).await?;
        self.tcp1.push(&tcp1);
        let tcp4 = tcp(path, 4, scale.slice()).await?;
        self.tcp4.push(&tcp4);
        let udp = udp::flood(path, scale.slice()).await?;
        self.udp200.push(udp.per_second);
        self.cpu_udp200.push(udp.cpu_micros);
        let trips = rtt::round_trips(path, scale.count(ECHOES)).await?;
        let micros = |part| quantile(&trips, part).unwrap_or_default();
        self.rtt_p50.push(micros(0.5));
        self.rtt_p99.push(micros(0.99));
        Ok(format!(
            "{:13} {:5.2} Gbit/s, 4 flows {:5.2}, {:6.0} packets/s, round trip {:.1} µs",
            path.name,
            tcp1.gbit_per_second,
            tcp4.gbit_per_second,
            udp.per_second,
            micros(0.5)
        ))
    }
}

async fn tcp(path: &Path, streams: usize, time: Duration) -> anyhow::Result<Carried> {
    let flow = Flow::start(path, streams, false).await?;
    tokio::time::sleep(WARM_UP).await;
    let carried = flow.watch(time).await?;
    flow.stop().await?;
    Ok(carried)
}

/// One figure of a path: name before the path's, unit, direction, where it is.
type Figure = (&'static str, &'static str, Better, fn(&Measured) -> &Series);

const FIGURES: [Figure; 8] = [
    ("tcp1", "Gbit/s", Better::Higher, |path| &path.tcp1.rate),
    ("tcp4", "Gbit/s", Better::Higher, |path| &path.tcp4.rate),
    ("rtt_p50", "µs", Better::Lower, |path| &path.rtt_p50),
    ("rtt_p99", "µs", Better::Lower, |path| &path.rtt_p99),
    ("udp200", "packets/s", Better::Higher, |path| &path.udp200),
    ("cpu_per_gbit", "CPU s/Gbit", Better::Lower, |path| &path.tcp1.cpu),
    ("cpu_per_gbit_tcp4", "CPU s/Gbit", Better::Lower, |path| &path.tcp4.cpu),
    ("cpu_per_packet_udp200", "CPU µs", Better::Lower, |path| &path.cpu_udp200),
];

/// Every figure of every path beside raw.
pub(super) fn metrics(all: &[Measured]) -> Result<Vec<Metric>, NoRuns> {
    let mut metrics = Vec::new();
    let named = |name| all.iter().find(move |path| path.path == name);
    let raw = named(paths::RAW);
    for (figure, unit, better, of) in FIGURES {
        for path in all {
            let name = format!("{figure}_{}", path.path);
            metrics.push(match raw {
                Some(raw) if path.path != paths::RAW => {
                    Metric::against(&name, unit, better, of(path), (RAW_PATH, of(raw)))?
                }
                _ => Metric::alone(&name, unit, of(path))?,
            });
        }
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(path: &'static str, value: f64) -> Measured {
        let mut all = Measured::new(path);
        for rates in [&mut all.tcp1, &mut all.tcp4] {
            rates.push(&Carried { gbit_per_second: value, cpu_per_gbit: value });
        }
        for series in [&mut all.udp200, &mut all.rtt_p50, &mut all.rtt_p99, &mut all.cpu_udp200] {
            series.push(value);
        }
        all
    }

    #[test]
    fn every_path_is_compared_with_raw() {
        let all = [
            measured(paths::RAW, 10.0),
            measured(paths::ROUTED, 9.0),
            measured(paths::VXLAN_HAND, 8.0),
            measured(paths::VXLAN, 4.0),
        ];
        let metrics = metrics(&all).unwrap();
        let ratio = |name: &str| {
            let metric = metrics.iter().find(|metric| metric.name == name);
            metric.unwrap_or_else(|| panic!("{name} is missing")).ratio
        };
        assert_eq!(ratio("tcp1_raw"), None);
        assert_eq!(ratio("tcp4_routed"), Some(0.9));
        assert_eq!(ratio("rtt_p99_vxlan"), Some(2.5));
        assert_eq!(ratio("udp200_vxlan_hand"), Some(0.8));
        assert_eq!(ratio("cpu_per_gbit_vxlan"), Some(2.5));
    }
}
