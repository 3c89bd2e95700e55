//! A state directory that is read-only: a disk that has remounted itself so after an error.

use std::path::Path;

use anyhow::ensure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{SOON, deployment, says};

/// A directory that is mounted over itself.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn over(path: &'a Path) -> anyhow::Result<Self> {
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(Self(path))
    }

    fn remount(&self, flags: MsFlags) -> anyhow::Result<()> {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
        Ok(mount(None::<&str>, self.0, None::<&str>, flags, None::<&str>)?)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Nothing more can be done; the agent may still have files open.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_from_a_read_only_state_directory_and_says_so() -> anyhow::Result<()> {
    let mut deployment = deployment("readonly").await?;
    let mut a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    b.ready(SOON).await?;
    says(&a, "default: 1 peers from server").await?;
    let before = a.subnet_env()?;
    a.stop().await?;
    let state = a.home.join("state");
    let disk = Mounted::over(&state)?;
    disk.remount(MsFlags::MS_RDONLY)?;

    deployment.control.kill9().await?;
    a.start()?;
    let text = says(&a, "1 peers from disk").await?;
    ensure!(text.contains("state not saved (Read-only file system"), "{text}");
    deployment.control.start().await?;
    let c = deployment.add_node("c", 13, &[]).await?;
    c.ready(SOON).await?;
    let text = says(&a, "default: 2 peers from server").await?;
    ensure!(text.contains("state not saved (Read-only file system"), "{text}");
    ensure!(a.subnet_env()? == before, "it has another subnet");

    disk.remount(MsFlags::empty())?;
    c.host.remove_address("eth0", loden_tests::hosts::cidr("192.0.2.13/24")).await?;
    c.host.add_address("eth0", loden_tests::hosts::cidr("192.0.2.33/24")).await?;
    let saved = loden_tests::wait::until("the state to be saved again", SOON, async || {
        let (_, text) = a.get("/readyz").await?;
        ensure!(text.starts_with("ready") && !text.contains("not saved"), "{text}");
        anyhow::Ok(())
    });
    saved.await?;
    a.stop().await
}
