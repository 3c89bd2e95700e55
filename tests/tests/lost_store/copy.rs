//! A copy of a control plane's state that is put back later.

use std::fs;
use std::path::{Path, PathBuf};

use loden_tests::deployment::{Deployment, copy_directory};

/// Copies the state as it is now, under a name of its own, and goes on.
pub(crate) async fn keep(deployment: &mut Deployment) -> anyhow::Result<PathBuf> {
    let copy = deployment.lab.directory().join("an-hour-ago");
    deployment.control.kill9().await?;
    copy_directory(&deployment.control.state, &copy)?;
    deployment.control.start().await?;
    Ok(copy)
}

/// Kills the control plane and puts a copy in the place of its state; it is not started.
pub(crate) async fn put_back(deployment: &mut Deployment, copy: &Path) -> anyhow::Result<()> {
    deployment.control.kill9().await?;
    fs::remove_dir_all(&deployment.control.state)?;
    copy_directory(copy, &deployment.control.state)?;
    Ok(())
}
