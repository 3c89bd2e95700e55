//! What the store keeps per second, below the API and through it, and how fast it opens again.
//!
//! ```text
//!  commits  256 tasks ─▶ Store::commit ─▶ sled        by turns with: one thread, append + fdatasync
//!  leases   256 callers (another process) ─mTLS─▶ the real control plane ─▶ sled
//!                                                     └─ stopped: its 10,000 leases open again, and once more
//!                                                        after 100,000 further commits
//!                                                    ─▶ etcd, one member, for comparison
//! ```

mod commits;
mod leases;
mod on_etcd;

use super::{Better, Metric, Say, Scale};

const ONE_BY_ONE: &str = "append + fdatasync per record, one thread";

/// Runs the benchmark.
pub(super) async fn run(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
    let commits = commits::measure(scale, say).await?;
    let leases = leases::measure(scale, say).await?;
    let on_etcd = on_etcd::measure(scale, say).await?;
    let per_second = "/s";
    Ok(vec![
        Metric::alone("durable_leases_sled_256", per_second, &leases.calls.per_second)?,
        Metric::alone("lease_p99_sled_256", "ms", &leases.calls.p99)?,
        Metric::alone("cpu_per_lease_sled_256", "CPU µs", &leases.calls.cpu_micros)?,
        Metric::alone("cpu_per_lease_client_256", "CPU µs", &leases.calls.client_micros)?,
        Metric::alone("durable_leases_etcd_256", per_second, &on_etcd.per_second)?,
        Metric::alone("lease_p99_etcd_256", "ms", &on_etcd.p99)?,
        Metric::alone("cpu_per_lease_etcd_256", "CPU µs", &on_etcd.cpu_micros)?,
        Metric::against(
            "store_commits_sled_256",
            per_second,
            Better::Higher,
            &commits.per_second,
            (ONE_BY_ONE, &commits.one_by_one),
        )?,
        Metric::alone("cpu_per_commit_sled_256", "CPU µs", &commits.cpu_micros)?,
        Metric::alone("reopen_10k", "ms", &leases.reopen)?,
        Metric::alone("reopen_10k_later", "ms", &leases.reopen_later)?,
    ])
}
