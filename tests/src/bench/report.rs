//! A benchmark's result: a table for people, a file for programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::Metric;

/// Where it was measured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Machine {
    /// Processors that the program may use.
    pub cpus: usize,
    /// The kernel's version.
    pub kernel: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: version(&release).to_owned(),
        }
    }
}

/// `6.18.2` of `6.18.2-local`.
fn version(release: &str) -> &str {
    release.trim().split('-').next().unwrap_or_default()
}

/// The result of one benchmark.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The benchmark's name.
    pub bench: String,
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub metrics: Vec<Metric>,
}

impl Report {
    /// Writes `NAME.json` into a directory, which is made; answers where.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
        let path = directory.join(format!("{}.json", self.bench));
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&path, json + "\n").with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        let header = ["metric", "unit", "median", "min", "max", "runs", "ratio", "baseline", "its median"];
        table.load_style(presets::NOTHING).set_header(header);
        for metric in &self.metrics {
            table.add_row([
                metric.name.clone(),
                metric.unit.clone(),
                number(metric.value),
                number(metric.min),
                number(metric.max),
                metric.runs.to_string(),
                metric.ratio.map(ratio).unwrap_or_default(),
                metric.baseline.clone().unwrap_or_default(),
                metric.baseline_value.map(number).unwrap_or_default(),
            ]);
        }
        for column in [2, 3, 4, 5, 6, 8] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let Machine { cpus, kernel } = &self.machine;
        format!("\n{}: {cpus} processors, Linux {kernel}; a ratio above 1 is better\n{table}\n", self.bench)
    }
}

/// In thousandths, so that a hundredth can be judged, where that is not more than was kept.
fn ratio(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.3}") } else { format!("{ratio:.1}") }
}

/// Whole from a hundred on, else with as many digits as were kept.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{Better, Series};
    use super::*;

    fn report() -> Report {
        let series = |value: f64| -> Series { [value].into_iter().collect() };
        let metrics = vec![
            Metric::against("tcp1_vxlan", "Gbit/s", Better::Higher, &series(12.5), ("raw", &series(25.0)))
                .unwrap(),
            Metric::alone("join_1k", "s", &series(1.25)).unwrap(),
        ];
        let machine = Machine { cpus: 2, kernel: "6.18.2".to_owned() };
        Report { bench: "throughput".to_owned(), machine, metrics }
    }

    #[test]
    fn the_file_has_the_shape_that_was_agreed() {
        let json: serde_json::Value = serde_json::to_value(report()).unwrap();
        let expected = serde_json::json!({
            "bench": "throughput",
            "machine": {"cpus": 2, "kernel": "6.18.2"},
            "metrics": [
                {"name": "tcp1_vxlan", "unit": "Gbit/s", "value": 12.5, "min": 12.5, "max": 12.5, "runs": 1,
                 "baseline": "raw", "baseline_value": 25.0, "ratio": 0.5},
                {"name": "join_1k", "unit": "s", "value": 1.25, "min": 1.25, "max": 1.25, "runs": 1,
                 "baseline": null, "baseline_value": null, "ratio": null},
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_written_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = report().write(&directory.path().join("bench")).unwrap();
        assert!(path.ends_with("throughput.json"));
        let read: Report = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(read, report());
    }

    #[test]
    fn the_table_has_every_metric() {
        let table = report().table();
        assert!(table.contains("tcp1_vxlan") && table.contains("0.500"), "{table}");
        assert!(table.contains("join_1k"), "{table}");
    }

    #[test]
    fn a_kernel_is_named_by_its_version() {
        assert_eq!(version("6.18.2-local\n"), "6.18.2");
        assert_eq!(version(""), "");
    }
}
