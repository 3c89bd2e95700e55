//! What must not be disturbed while the state is lost.

use std::collections::BTreeMap;

use anyhow::ensure;
use ipnet::IpNet;
use loden_tests::hosts::RouteDeletions;
use loden_tests::traffic::RunningPing;

/// What must not be disturbed.
pub(crate) struct Calm {
    pub(crate) subnets: BTreeMap<String, IpNet>,
    pub(crate) deletions: BTreeMap<String, RouteDeletions>,
    pub(crate) pings: Vec<(String, RunningPing)>,
}

impl Calm {
    /// The routes that each has deleted so far.
    pub(crate) fn deleted(&self) -> BTreeMap<&str, Vec<IpNet>> {
        self.deletions.iter().map(|(name, deletions)| (name.as_str(), deletions.seen())).collect()
    }

    /// No ping was lost.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        for (what, ping) in self.pings {
            let report = ping.stop().await?;
            let lost = report.timeline.iter().filter(|echo| echo.round_trip().is_none());
            let lost: Vec<_> = lost.map(|echo| (echo.at, echo.fate)).collect();
            ensure!(lost.is_empty(), "{what}: {report}: {lost:?}");
            ensure!(report.sent() > 1000, "{what}: only {} pings", report.sent());
        }
        Ok(())
    }
}
