//! The same calls to one control plane whose store is an etcd of one member, which syncs to the same disk.

use super::super::{Say, Scale, Series};
use super::leases::acquire;
use crate::deployment::{EtcdSettings, Replicated, ReplicatedSettings};

/// The runs.
#[derive(Default)]
pub(super) struct OnEtcd {
    pub(super) per_second: Series,
    pub(super) p99: Series,
    /// CPU time of the control plane per lease.
    pub(super) cpu_micros: Series,
}

/// Each run is a control plane of its own with an empty store.
pub(super) async fn measure(scale: &Scale, say: &Say<'_>) -> anyhow::Result<OnEtcd> {
    let mut all = OnEtcd::default();
    for run in 0..scale.runs() {
        let etcd = EtcdSettings { members: 1, tls: true, ..EtcdSettings::default() };
        let settings = ReplicatedSettings { etcd, ..ReplicatedSettings::default() };
        let mut site = Replicated::prepare("store-etcd", settings).await?;
        site.launch_first().await?;
        let acquired = acquire(&site.deployment, scale).await?;
        say(&format!(
            "run {} of {}: on etcd {:.0} leases/s, p99 {:.1} ms",
            run + 1,
            scale.runs(),
            acquired.per_second,
            acquired.p99,
        ));
        all.per_second.push(acquired.per_second);
        all.p99.push(acquired.p99);
        all.cpu_micros.push(acquired.cpu);
    }
    Ok(all)
}
