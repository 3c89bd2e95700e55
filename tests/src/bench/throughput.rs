//! What a path between two containers carries, beside the bare path between their hosts.
//!
//! ```text
//!  run:  raw ─▶ routed ─▶ vxlan_hand ─▶ vxlan      (the next run begins one further)
//!         └─ each: TCP 1 flow, TCP 4 flows, UDP 200 B, round trips; CPU time of the machine
//! ```
//!
//! The same kernel carries sender, receiver and everything between, so all figures are bound by
//! CPU: the ratios count, not the gigabits.

mod paths;
mod rtt;
mod udp;

use std::time::Duration;

use super::metric::quantile;
use super::usage::MachineTime;
use super::{Better, Metric, NoRuns, Say, Scale, Series};
use crate::traffic::{Amount, Transfer};
use paths::{Path, Stage};

/// Echo requests per run.
const ECHOES: usize = 20_000;
/// Above this many processors busy with something else, figures are worth little.
const QUIET: f64 = 0.1;
/// How long the machine is watched before the first run.
const WATCH: Duration = Duration::from_millis(500);

const RAW: &str = "raw: host to host";
const HAND: &str = "VXLAN made by hand with iproute2";

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let watch = MachineTime::now()?;
    tokio::time::sleep(WATCH).await;
    let load = watch.load()?;
    if load > QUIET {
        say(&format!("others keep {load:.2} processors busy: the figures will be off"));
    }
    let stage = Stage::build(say).await?;
    let mut all: Vec<Measured> = stage.paths.iter().map(|path| Measured::new(path.name)).collect();
    for run in 0..scale.many_runs() {
        for turn in 0..stage.paths.len() {
            let index = (run + turn) % stage.paths.len();
            let line = all[index].measure(&stage.paths[index], scale).await?;
            say(&format!("run {} of {}: {line}", run + 1, scale.many_runs()));
        }
    }
    Ok(metrics(&all)?)
}

/// The runs of one path.
struct Measured {
    path: &'static str,
    tcp1: Series,
    tcp4: Series,
    udp200: Series,
    rtt_p50: Series,
    rtt_p99: Series,
    cpu_tcp1: Series,
    cpu_tcp4: Series,
    cpu_udp200: Series,
}

impl Measured {
    fn new(path: &'static str) -> Self {
        Self {
            path,
            tcp1: Series::default(),
            tcp4: Series::default(),
            udp200: Series::default(),
            rtt_p50: Series::default(),
            rtt_p99: Series::default(),
            cpu_tcp1: Series::default(),
            cpu_tcp4: Series::default(),
            cpu_udp200: Series::default(),
        }
    }

    /// One run; answers a line about it.
    async fn measure(&mut self, path: &Path, scale: &Scale) -> anyhow::Result<String> {
        let (tcp1, cpu) = tcp(path, 1, scale.slice()).await?;
        self.tcp1.push(tcp1);
        self.cpu_tcp1.push(cpu);
        let (tcp4, cpu) = tcp(path, 4, scale.slice()).await?;
        self.tcp4.push(tcp4);
        self.cpu_tcp4.push(cpu);
        let udp = udp::flood(path, scale.slice()).await?;
        self.udp200.push(udp.per_second);
        self.cpu_udp200.push(udp.cpu_micros);
        let trips = rtt::round_trips(path, scale.count(ECHOES)).await?;
        let micros = |part| quantile(&trips, part).unwrap_or_default();
        self.rtt_p50.push(micros(0.5));
        self.rtt_p99.push(micros(0.99));
        Ok(format!(
            "{:10} {tcp1:5.2} Gbit/s, 4 flows {tcp4:5.2}, {:6.0} packets/s, round trip {:.1} µs",
            path.name,
            udp.per_second,
            micros(0.5)
        ))
    }
}

/// Gbit/s, and CPU seconds per Gbit.
async fn tcp(path: &Path, streams: usize, time: Duration) -> anyhow::Result<(f64, f64)> {
    let cpu = MachineTime::now()?;
    let transfer = Transfer::to(path.target).streams(streams).amount(Amount::For(time));
    let carried = transfer.run(&path.from, &path.to).await?;
    let gbit = carried.bytes as f64 * 8e-9;
    anyhow::ensure!(gbit > 0.0, "{} carried nothing", path.name);
    Ok((carried.gbit_per_second(), cpu.spent()?.as_secs_f64() / gbit))
}

/// One figure of a path: name before the path's, unit, direction, where it is.
type Figure = (&'static str, &'static str, Better, fn(&Measured) -> &Series);

const FIGURES: [Figure; 8] = [
    ("tcp1", "Gbit/s", Better::Higher, |path| &path.tcp1),
    ("tcp4", "Gbit/s", Better::Higher, |path| &path.tcp4),
    ("rtt_p50", "µs", Better::Lower, |path| &path.rtt_p50),
    ("rtt_p99", "µs", Better::Lower, |path| &path.rtt_p99),
    ("udp200", "packets/s", Better::Higher, |path| &path.udp200),
    ("cpu_per_gbit", "CPU s/Gbit", Better::Lower, |path| &path.cpu_tcp1),
    ("cpu_per_gbit_tcp4", "CPU s/Gbit", Better::Lower, |path| &path.cpu_tcp4),
    ("cpu_per_packet_udp200", "CPU µs", Better::Lower, |path| &path.cpu_udp200),
];

/// Every figure of every path beside raw, then ours beside the same made by hand.
fn metrics(all: &[Measured]) -> Result<Vec<Metric>, NoRuns> {
    let mut metrics = Vec::new();
    let named = |name| all.iter().find(move |path| path.path == name);
    let raw = named(paths::RAW);
    for (figure, unit, better, of) in FIGURES {
        for path in all {
            let name = format!("{figure}_{}", path.path);
            metrics.push(match raw {
                Some(raw) if path.path != paths::RAW => {
                    Metric::against(&name, unit, better, of(path), (RAW, of(raw)))?
                }
                _ => Metric::alone(&name, unit, of(path))?,
            });
        }
    }
    if let (Some(ours), Some(hand)) = (named(paths::VXLAN), named(paths::VXLAN_HAND)) {
        for (figure, unit, better, of) in FIGURES {
            let name = format!("{figure}_vs_vxlan_hand");
            metrics.push(Metric::against(&name, unit, better, of(ours), (HAND, of(hand)))?);
        }
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(path: &'static str, value: f64) -> Measured {
        let mut all = Measured::new(path);
        let Measured { path: _, tcp1, tcp4, udp200, rtt_p50, rtt_p99, cpu_tcp1, cpu_tcp4, cpu_udp200 } =
            &mut all;
        for series in [tcp1, tcp4, udp200, rtt_p50, rtt_p99, cpu_tcp1, cpu_tcp4, cpu_udp200] {
            series.push(value);
        }
        all
    }

    #[test]
    fn every_path_is_compared_with_raw_and_ours_with_the_same_made_by_hand() {
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
        assert_eq!(ratio("tcp1_vs_vxlan_hand"), Some(0.5));
    }
}
