//! A whole control plane whose power is cut: what it acknowledged is there, and it is still itself.
//!
//! ```text
//!  ext4 on a loop device: pki/ store/ bundles/
//!    ▲          │
//!    │          └── after some acknowledgements, or some time into a first start: cut, unmounted, mounted
//!  loden-control-plane ◀── mTLS ── workers that acquire, a watch, `issue`; they stay over all rounds
//! ```
//!
//! `power_cut` does the same to the store alone, many more times.

#![cfg(test)]

mod load;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::StatusCode;
use loden_tests::client::{self, Follower, Identities, Seen};
use loden_tests::deployment::Deployment;
use loden_tests::disk::Disk;
use loden_tests::wait;
use loden_transport::Bundle;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::Load;

const ROUNDS: usize = 16;
const NETWORK: &str = "blue";
const DISK_BYTES: u64 = 192 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// What must never change.
const KEPT: [&str; 4] = ["ca.crt", "ca.key", "token.key", "incarnation"];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_cuts_and_nothing_is_adopted() -> anyhow::Result<()> {
    let seed = rand::random();
    run(&mut StdRng::seed_from_u64(seed)).await.with_context(|| format!("seed {seed}"))
}

async fn run(rng: &mut StdRng) -> anyhow::Result<()> {
    let mut site = Site::prepare("cut").await?;
    site.deployment.control.start().await?;
    let issuer =
        Identities::of(&site.deployment.control, &site.deployment.lab.directory().join("identities"))?;
    let admin = site.deployment.control.channel(&issuer.admin("operator")?).await?;
    client::create_network(&admin, NETWORK, "10.1.0.0/16", 24).await?;
    let mut load = Load::connect(&site.deployment.control, &issuer).await?;
    let mut follower = Follower::observer(NETWORK);
    follower.open(&admin).await?;
    ensure!(follower.next().await? == Seen::Snapshot { adopting: false });

    let (kept, mut bundles, mut acknowledged) = (site.kept()?, Vec::new(), 0);
    for round in 0..ROUNDS {
        let cut = async {
            let working = load.begin();
            working.acknowledged(rng.random_range(1..400)).await?;
            bundles.push(site.issue(round).await?);
            site.disk.cut_power()?;
            if rng.random() {
                // Some die at once, some have time to notice.
                site.notices().await?;
            }
            site.deployment.control.kill9().await?;
            acknowledged += working.end(&mut load).await?;
            while follower.next().await.is_ok() {}
            site.disk.restart()?;
            site.deployment.control.start().await?;

            ensure!(site.kept()? == kept, "the control plane is another one");
            site.did_not_adopt().await?;
            for bundle in &bundles {
                Bundle::read(bundle)?;
            }
            load.compare(&client::leases(&admin).await?)?;
            // Whoever was told something goes on from there: it was on disk.
            follower.open(&admin).await?;
            let seen = follower.next().await?;
            ensure!(!matches!(seen, Seen::Snapshot { .. }), "the watch did not resume: {seen:?}");
            anyhow::Ok(())
        };
        cut.await.with_context(|| format!("round {round}"))?;
    }
    println!("{acknowledged} acknowledged leases in {ROUNDS} power cuts, none lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_loses_its_power_leaves_a_whole_cluster_or_none() -> anyhow::Result<()> {
    let mut site = Site::prepare("first-cut").await?;
    let began = Instant::now();
    site.deployment.control.start().await?;
    let whole = began.elapsed();
    site.deployment.control.kill9().await?;
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut made = 0;
    for round in 0..ROUNDS {
        // Cut into parts, so that each part of a start has its cut.
        let after = whole.mul_f64((round as f64 + rng.random::<f64>()) / ROUNDS as f64);
        site.deployment.control.state = site.disk.path().join(format!("state-{round}"));
        let cut = site.first_start(round, after).await;
        made += usize::from(cut.with_context(|| format!("round {round}, seed {seed}, cut after {after:?}"))?);
    }
    println!("{made} of {ROUNDS} first starts had made their CA before the cut");
    Ok(())
}

/// A control plane on a disk that loses its power.
struct Site {
    deployment: Deployment,
    disk: Disk,
}

impl Site {
    async fn prepare(name: &str) -> anyhow::Result<Self> {
        let mut deployment = Deployment::prepare(name, &["--settle", "0s", "--heartbeat", "300ms"]).await?;
        // From here on this thread and the processes that it starts are alone with the disk.
        let disk = Disk::ext4(DISK_BYTES)?;
        deployment.control.state = disk.path().join("state");
        Ok(Self { deployment, disk })
    }

    /// Issues an identity onto the disk, below directories that are new as well.
    async fn issue(&self, round: usize) -> anyhow::Result<PathBuf> {
        let bundle = self.disk.path().join(format!("bundles/{round}/node"));
        self.deployment.control.issue("node", &format!("late-{round}"), &bundle).await?;
        Ok(bundle)
    }

    /// Waits until the control plane knows that its disk is gone.
    async fn notices(&self) -> anyhow::Result<()> {
        let unready = wait::until("the control plane to notice", PATIENCE, async || {
            let (status, body) = self.deployment.control.get("/readyz").await?;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {body}");
            anyhow::Ok(())
        });
        Ok(unready.await?)
    }

    fn kept(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let pki = self.deployment.control.state.join("pki");
        Ok(KEPT.into_iter().map(|name| fs::read(pki.join(name))).collect::<Result<_, _>>()?)
    }

    fn log(&self) -> anyhow::Result<String> {
        let process = self.deployment.control.process.as_ref().context("it does not run")?;
        Ok(process.log().text()?)
    }

    async fn did_not_adopt(&self) -> anyhow::Result<()> {
        let (_, metrics) = self.deployment.control.get("/metrics").await?;
        ensure!(metrics.contains("\nloden_adopting 0\n"), "{metrics}");
        ensure!(!self.log()?.contains("collecting leases"), "{}", self.log()?);
        Ok(())
    }

    /// Starts for the first time, cuts the power after this time, and starts again: it must serve. Says
    /// whether its CA was made before.
    async fn first_start(&mut self, round: usize, after: Duration) -> anyhow::Result<bool> {
        self.deployment.control.spawn()?;
        tokio::time::sleep(after).await;
        // What the log tells is on disk.
        let made = self.log()?.contains("cluster CA made");
        let pki = self.deployment.control.state.join("pki");
        let before = made.then(|| fs::read(pki.join("ca.crt"))).transpose()?;
        self.disk.cut_power()?;
        self.deployment.control.kill9().await?;
        self.disk.restart()?;
        self.deployment.control.start().await?;
        ensure!(before.is_none_or(|before| fs::read(pki.join("ca.crt")).is_ok_and(|now| now == before)));
        self.did_not_adopt().await?;
        self.works(round).await?;
        self.deployment.control.kill9().await?;
        fs::remove_dir_all(&self.deployment.control.state)?;
        // The next cut shall not bring it back.
        File::open(self.disk.path())?.sync_all()?;
        Ok(made)
    }

    /// The first admin's identity is good, and new ones can be made.
    async fn works(&self, round: usize) -> anyhow::Result<()> {
        let control = &self.deployment.control;
        // Clients read their identities whenever they like, and the disk is not theirs.
        let home = self.deployment.lab.directory().join(format!("identities-{round}"));
        let (admin, node) = (home.join("admin"), home.join("node"));
        Bundle::read(&control.admin_identity())?.write(&admin)?;
        control.issue("node", "one", &node).await?;
        let admin = control.channel(&admin).await?;
        client::create_network(&admin, NETWORK, "10.1.0.0/16", 24).await?;
        let node = control.channel(&node).await?;
        client::acquire(&node, NETWORK, 1, client::endpoint(1)).await?;
        Ok(())
    }
}
