//! What each path carries, and ours beside the others.

use super::super::carry::measured::Measured;
use super::super::{Better, Metric, NoRuns, Series};
use super::stage::{NAIVE, RAW, UDP, VXLAN};

/// One figure: its name, unit, direction, what it is compared with, where it is.
type Figure = (&'static str, &'static str, Better, &'static str, fn(&Measured) -> &Series);

const FIGURES: [Figure; 7] = [
    ("tcp1_vs_vxlan", "Gbit/s", Better::Higher, VXLAN, |path| &path.tcp1.rate),
    ("tcp1_vs_naive", "Gbit/s", Better::Higher, NAIVE, |path| &path.tcp1.rate),
    ("tcp4_vs_vxlan", "Gbit/s", Better::Higher, VXLAN, |path| &path.tcp4.rate),
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
    let mut metrics = vec![Metric::alone(&format!("tcp1_raw{suffix}"), "Gbit/s", &named(RAW).tcp1.rate)?];
    for (figure, unit, better, baseline, of) in FIGURES {
        let name = format!("{figure}{suffix}");
        metrics.push(Metric::against(&name, unit, better, of(ours), (baseline, of(named(baseline))))?);
    }
    Ok(metrics)
}
