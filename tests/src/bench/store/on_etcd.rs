//! The same calls to one control plane whose store is an etcd of one member, which syncs to the same disk.

use super::super::{Say, Scale};
use super::leases::{Calls, acquire};
use crate::deployment::{EtcdSettings, Replicated, ReplicatedSettings};

/// Each run is a control plane of its own with an empty store.
pub(super) async fn measure(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Calls> {
    let mut calls = Calls::default();
    for run in 0..scale.runs() {
        let etcd = EtcdSettings { members: 1, tls: true, ..EtcdSettings::default() };
        let settings = ReplicatedSettings { etcd, ..ReplicatedSettings::default() };
        let mut site = Replicated::prepare("store-etcd", settings).await?;
        site.launch_first().await?;
        let (_, line) = acquire(&site.deployment, scale, &mut calls).await?;
        say(&format!("run {} of {}: on etcd {line}", run + 1, scale.runs()));
    }
    Ok(calls)
}
