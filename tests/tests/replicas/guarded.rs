//! An etcd that wants to know who it talks to.

use anyhow::ensure;
use loden_tests::deployment::{EtcdSettings, Replicated, ReplicatedSettings};

use crate::SOON;
use crate::fleet::Fleet;

#[tokio::test(flavor = "multi_thread")]
async fn replicas_serve_on_an_etcd_that_wants_a_certificate_and_a_password() -> anyhow::Result<()> {
    let etcd =
        EtcdSettings { members: 1, tls: true, password: Some("correct horse"), ..EtcdSettings::default() };
    let mut site = Replicated::prepare("guarded", ReplicatedSettings { etcd, flags: &[] }).await?;
    site.launch().await?;
    let fleet = Fleet::start(&site.deployment, 2).await?;
    let before = fleet.leases(&site.deployment).await?;

    // They find it again after its end, with what they had put there.
    site.etcd.member(0)?.kill9().await?;
    site.etcd.member(0)?.spawn()?;
    site.etcd.healthy().await?;
    site.ready(SOON).await?;
    let late = site.deployment.add_node("late", 30, &[]).await?;
    late.ready(SOON).await?;
    let after = fleet.leases(&site.deployment).await?;
    ensure!(after == before, "the leases were {before:?}, now they are {after:?}");
    Ok(())
}
