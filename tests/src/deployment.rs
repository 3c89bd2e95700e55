//! A deployment of the real programs on hosts of this machine.
//!
//! ```text
//!  Deployment ── lab, fabric 192.0.2.0/24 or 2001:db8::/64
//!   ├─ ControlPlane   host "control", .1; loden-control-plane
//!   └─ Node …         host NAME, .11 and up; loden-agent; containers on cni0
//!
//!  Replicated ── a deployment whose control plane is the first of three, behind haproxy, on etcd
//! ```
//!
//! Every process is the binary that `cargo build` made, beside the running test.

mod binaries;
mod control;
mod daemon;
mod etcd;
mod haproxy;
mod http;
mod node;
mod pair;
mod ready;
mod replicated;
mod store;
mod underlay;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};

pub use binaries::Binaries;
pub use control::ControlPlane;
pub use daemon::Daemon;
pub use etcd::{Etcd, EtcdSettings};
pub use haproxy::Haproxy;
pub use http::get;
pub use node::{Node, SubnetEnv};
pub use pair::Pair;
pub use replicated::{Replicated, ReplicatedSettings};
pub use underlay::Underlay;

use crate::hosts::{Fabric, Lab};

/// The number on the underlay of the host of a control plane that is alone.
const NUMBER: u8 = 1;

/// A control plane and the ground for its nodes. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Deployment {
    /// The control plane.
    pub control: ControlPlane,
    /// The segment of all hosts.
    pub fabric: Fabric,
    /// What nodes and lodenctl dial.
    server: String,
    underlay: Underlay,
    binaries: Binaries,
    /// Last, so that processes end before their hosts go.
    pub lab: Lab,
}

impl Deployment {
    /// As [`Self::start_over`] an IPv4 underlay.
    ///
    /// # Errors
    /// When the machine or the control plane refuses.
    pub async fn start(name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_over(Underlay::V4, name, flags).await
    }

    /// Makes the ground and starts the control plane with these extra flags; waits until it
    /// serves.
    ///
    /// # Errors
    /// When the machine or the control plane refuses.
    pub async fn start_over(underlay: Underlay, name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let mut deployment = Self::prepare_over(underlay, name, flags).await?;
        deployment.control.start().await?;
        Ok(deployment)
    }

    /// As [`Self::start`], without starting the control plane: a test may put something else in
    /// its place.
    ///
    /// # Errors
    /// When the machine refuses.
    pub async fn prepare(name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::prepare_over(Underlay::V4, name, flags).await
    }

    async fn prepare_over(underlay: Underlay, name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::new(name)?;
        let fabric = lab.fabric("fabric").await?;
        Self::on(lab, fabric, underlay, "control", flags).await
    }

    /// On ground that is there already, with the control plane on a host of this name.
    async fn on(
        lab: Lab,
        fabric: Fabric,
        underlay: Underlay,
        host: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let binaries = Binaries::locate()?;
        let address = underlay.address(NUMBER);
        let host = lab.host(host).on(&fabric).address(address).build().await?;
        let state = lab.directory().join("control-plane");
        let control = ControlPlane::new(host, address.addr(), state, binaries.clone(), flags);
        let server = control.endpoint();
        Ok(Self { control, fabric, server, underlay, binaries, lab })
    }

    /// Has nodes that are made from now on, and lodenctl, dial something else than the control plane itself.
    pub fn set_server(&mut self, server: impl Into<String>) {
        self.server = server.into();
    }

    /// What nodes and lodenctl dial.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Creates a VXLAN network.
    ///
    /// # Errors
    /// When lodenctl says no.
    pub async fn create_network(&self, name: &str, pool: &str) -> anyhow::Result<()> {
        self.lodenctl(&["network", "create", name, "--pool", pool]).await.map(drop)
    }

    /// Makes a host with the underlay's address of this number, issues its certificate, and
    /// starts its agent with these extra flags. It is not ready when this returns.
    ///
    /// # Errors
    /// When the machine, the control plane or the agent refuses.
    pub async fn add_node(&self, name: &str, number: u8, flags: &[&str]) -> anyhow::Result<Node> {
        let mut node = self.prepare_node(name, number, flags).await?;
        node.start()?;
        Ok(node)
    }

    /// As [`Self::add_node`], without starting its agent.
    ///
    /// # Errors
    /// When the machine or the control plane's program refuses.
    pub async fn prepare_node(&self, name: &str, number: u8, flags: &[&str]) -> anyhow::Result<Node> {
        let mut node = self.prepare_host(name, number).await?;
        self.control.issue("node", name, &node.home.join("identity")).await?;
        node.set_flags(flags);
        Ok(node)
    }

    /// As [`Self::prepare_node`], without an identity.
    ///
    /// # Errors
    /// When the machine refuses.
    pub async fn prepare_host(&self, name: &str, number: u8) -> anyhow::Result<Node> {
        let address = self.underlay.address(number);
        let host = self.lab.host(name).on(&self.fabric).address(address).build().await?;
        let home = self.lab.directory().join(name);
        Ok(Node::new(name, host, home, self.server.clone(), self.binaries.clone(), &[]))
    }

    /// Makes a token with these flags.
    ///
    /// # Errors
    /// When lodenctl says no.
    pub async fn token(&self, flags: &[&str]) -> anyhow::Result<String> {
        let made = self.lodenctl(&[&["token", "create"], flags].concat()).await?;
        Ok(made.trim().to_owned())
    }

    /// Makes a host for a copy of a node: with its certificate and, if its disk is cloned, the state that its
    /// agent has at this moment. The copy's agent does not run when this returns.
    ///
    /// # Errors
    /// When the machine or the disk refuses.
    pub async fn prepare_copy(
        &self,
        of: &Node,
        name: &str,
        number: u8,
        cloned_disk: bool,
    ) -> anyhow::Result<Node> {
        let address = self.underlay.address(number);
        let host = self.lab.host(name).on(&self.fabric).address(address).build().await?;
        let home = self.lab.directory().join(name);
        fs::create_dir(&home)?;
        copy_directory(&of.home.join("identity"), &home.join("identity"))?;
        if cloned_disk {
            copy_directory(&of.home.join("state"), &home.join("state"))?;
        }
        Ok(Node::new(&of.name, host, home, self.server.clone(), self.binaries.clone(), &[]))
    }

    /// Runs lodenctl as admin on the control plane's host; answers its output.
    ///
    /// # Errors
    /// When it exits with another code than 0; the error holds what it wrote.
    pub async fn lodenctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run_lodenctl(arguments).await?;
        ensure!(
            output.status.success(),
            "lodenctl {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("lodenctl wrote no UTF-8")
    }

    /// As [`Self::lodenctl`]; answers how it ended and all that it wrote.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run_lodenctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binaries.lodenctl);
        command
            .args(["--server", &self.server])
            .arg("--identity")
            .arg(self.control.admin_identity())
            .args(arguments);
        let host = self.control.host.clone();
        let output = tokio::task::spawn_blocking(move || host.enter(|| command.output())).await?;
        output.context("could not run lodenctl")
    }

    /// Runs lodenctl with `-o json`; answers what it printed.
    ///
    /// # Errors
    /// As [`Self::lodenctl`], or when it printed no JSON.
    pub async fn lodenctl_json(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let text = self.lodenctl(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("lodenctl printed no JSON: {text}"))
    }
}

/// Copies a directory with all that is in it, as it is: into the other one if that is there already.
///
/// # Errors
/// When cp(1) refuses.
pub fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
