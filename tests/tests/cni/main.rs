//! Containers that CNI plugins attach, by what the agent wrote: real plugins, real packets between two hosts.

#![cfg(test)]

mod cell;
mod containerd;
mod cri;
mod crictl;
mod flannel;
mod image;
mod pods;
mod reference;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use loden_tests::{
    cni::Runtime,
    deployment::{Deployment, Node},
};

const SOON: Duration = Duration::from_secs(30);

/// Two nodes of a network with these pools, ready.
async fn two_nodes(name: &str, pools: &[&str]) -> anyhow::Result<(Deployment, Node, Node)> {
    let deployment = Deployment::start(name, &[]).await?;
    let pools = pools.iter().flat_map(|pool| ["--pool", pool]);
    let words: Vec<_> = ["network", "create", "default"].into_iter().chain(pools).collect();
    deployment.lodenctl(&words).await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    Ok((deployment, a, b))
}

/// Folders with plugins, the first of which that has one counts.
#[derive(Clone, Debug)]
struct Plugins {
    folders: Vec<PathBuf>,
    /// Those whose CHECK is right. portmap 1.1 looks for the rules of IPv4 in ip6tables.
    unasked: &'static [&'static str],
}

impl Plugins {
    /// Debian's package.
    fn distribution() -> anyhow::Result<Self> {
        let folder = PathBuf::from("/usr/lib/cni");
        ensure!(folder.join("bridge").is_file(), "the CNI reference plugins are missing: run `make tools`");
        Ok(Self { folders: vec![folder], unasked: &["portmap"] })
    }

    /// Newer ones and flannel's, which `make tools` has built where there is Go.
    fn built() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/cni");
        folder.join("portmap").is_file().then(|| Self { folders: vec![folder], unasked: &[] })
    }

    /// A node's runtime that uses them.
    fn runtime(&self, node: &Node, config: &Path) -> anyhow::Result<Runtime> {
        Runtime::new(&node.host, config, &self.folders, &node.home.join("var-lib"))
    }
}
