//! What each path carries: the same figures of all of them, beside the bare path's.

use super::super::carry::measured::Measured;
use super::super::{Better, Metric, NoRuns, Series};
use super::paths;

const RAW_PATH: &str = "raw: host to host";

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
    use super::super::super::carry::flow::Carried;
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
