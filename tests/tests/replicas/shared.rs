//! What replicas share of the CA, and what one finds whose state directory is new.

use std::fs;
use std::time::SystemTime;

use anyhow::ensure;
use loden_control_plane::identity::Pki;
use loden_tests::deployment::Replicated;
use loden_tests::wait;

use crate::SOON;
use crate::fleet::Fleet;

/// Waits until every replica has a file of the CA with these contents.
async fn until_all_have(site: &Replicated, name: &str, contents: &str) -> anyhow::Result<()> {
    let what = format!("{name} to be at every replica");
    let shared = wait::until(&what, SOON, async || {
        for replica in site.replicas() {
            let found = fs::read_to_string(replica.state.join("pki").join(name)).unwrap_or_default();
            ensure!(found == contents, "not in {}", replica.state.display());
        }
        anyhow::Ok(())
    });
    Ok(shared.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_state_directory_is_new_makes_nobody_wait() -> anyhow::Result<()> {
    let mut site = Replicated::start("newstate", &[]).await?;
    let _fleet = Fleet::start(&site.deployment, 1).await?;
    let [_, _, third] = site.replicas_mut();
    third.stop().await?;
    fs::remove_dir_all(&third.state)?;
    third.start().await?;
    for replica in site.replicas() {
        let said = replica.ready(SOON).await?;
        ensure!(!said.contains("adopting"), "{said}");
    }
    let late = site.deployment.add_node("late", 30, &[]).await?;
    late.ready(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_from_elsewhere_that_one_replica_has_got_is_the_next_one_of_all() -> anyhow::Result<()> {
    let site = Replicated::start("nextca", &[]).await?;
    let elsewhere = site.deployment.lab.directory().join("elsewhere");
    let theirs = Pki::open_or_create(&elsewhere, &"demo".parse()?, SystemTime::now())?;
    let certificate = theirs.authority().certificate_pem().to_owned();
    let next = site.replicas()[1].state.join("pki/next");
    fs::create_dir_all(&next)?;
    for name in ["ca.key", "ca.crt"] {
        fs::copy(elsewhere.join(name), next.join(name))?;
    }
    until_all_have(&site, "next/ca.crt", &certificate).await?;
    let rotated = site.deployment.lodenctl_json(&["ca", "rotate"]).await?;
    ensure!(rotated["phase"] == "issuing", "{rotated}");
    until_all_have(&site, "ca.crt", &certificate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_seal_is_lost_is_shared_again() -> anyhow::Result<()> {
    let mut site = Replicated::start("newseal", &[]).await?;
    let certificate = fs::read_to_string(site.replicas()[0].state.join("pki/ca.crt"))?;
    for replica in site.replicas_mut() {
        replica.stop().await?;
    }
    fs::write(site.seal(), "another seal, which is the same on every replica as well")?;
    site.store(&["share-ca"]).await?;
    let [_, _, third] = site.replicas_mut();
    fs::remove_dir_all(&third.state)?;
    for replica in site.replicas_mut() {
        replica.start().await?;
    }
    until_all_have(&site, "ca.crt", &certificate).await
}
