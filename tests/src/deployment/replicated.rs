//! Three replicas of the control plane behind haproxy, on a cluster of etcd.
//!
//! ```text
//!  clients (.8), nodes (.11 and up)            a node may also dial the three by themselves
//!        │
//!  haproxy on "balancer" (.4) ──▶ control1, control2, control3 (.1, .2, .3) ──▶ etcd1 … etcd3 (.5, .6, .7)
//! ```
//!
//! The first replica is the deployment's control plane: the administrator and whoever gets a certificate get it of
//! its copy of the CA, which all replicas share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_transport::{ConnectOptions, Credentials, ServerAddress, connect_lazy};
use tonic::transport::Channel;

use super::{ControlPlane, Deployment, Etcd, EtcdSettings, Haproxy, NUMBER, Underlay};
use crate::hosts::{Host, Inside, Lab};

/// The underlay numbers of the other hosts.
const BALANCER: u8 = 4;
const CLIENTS: u8 = 8;
/// What the CA's key is sealed with; at least 32 bytes.
const SEAL: &str = "a seal that is the same on every replica, and long enough to be one";
/// The folder of etcd that is theirs.
const PREFIX: &str = "loden";

/// What a cluster is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicatedSettings<'a> {
    /// Its store.
    pub etcd: EtcdSettings,
    /// Extra flags of every replica.
    pub flags: &'a [&'a str],
}

/// Three replicas and all that they need. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Replicated {
    /// What is in front of the replicas.
    pub haproxy: Haproxy,
    /// What is behind them.
    pub etcd: Etcd,
    /// A host for clients that are no nodes.
    pub clients: Host,
    others: [ControlPlane; 2],
    flags: Vec<String>,
    /// Where the channels of those clients live; made with the first.
    inside: OnceLock<Inside>,
    /// Of the first replica; nodes and lodenctl dial haproxy. Last, so that processes end before their hosts go.
    pub deployment: Deployment,
}

impl Replicated {
    /// Makes the hosts and starts everything, with these extra flags for the replicas; waits until all serve.
    ///
    /// # Errors
    /// When the machine or one of the programs refuses.
    pub async fn start(name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let mut site =
            Self::prepare(name, ReplicatedSettings { flags, ..ReplicatedSettings::default() }).await?;
        site.launch().await?;
        Ok(site)
    }

    /// Makes the hosts. Nothing runs yet.
    ///
    /// # Errors
    /// When the machine refuses.
    pub async fn prepare(name: &str, settings: ReplicatedSettings<'_>) -> anyhow::Result<Self> {
        let underlay = Underlay::V4;
        let lab = Lab::new(name)?;
        let fabric = lab.fabric("fabric").await?;
        let etcd = Etcd::prepare(&lab, &fabric, underlay, settings.etcd).await?;
        let mut deployment = Deployment::on(lab, fabric, underlay, &replica_name(0), &[]).await?;
        let others = [Self::replica(&deployment, 1).await?, Self::replica(&deployment, 2).await?];
        let clients =
            deployment.lab.host("clients").on(&deployment.fabric).address(underlay.address(CLIENTS));
        let clients = clients.build().await?;
        let address = underlay.address(BALANCER);
        let balancer =
            deployment.lab.host("balancer").on(&deployment.fabric).address(address).build().await?;
        let servers = [deployment.control.address(), others[0].address(), others[1].address()];
        let haproxy = Haproxy::prepare(&deployment.lab, balancer, address.addr(), servers)?;
        deployment.set_server(haproxy.endpoint());
        let flags = settings.flags.iter().map(|flag| (*flag).to_owned()).collect();
        Ok(Self { haproxy, etcd, clients, others, flags, inside: OnceLock::new(), deployment })
    }

    async fn replica(first: &Deployment, index: u8) -> anyhow::Result<ControlPlane> {
        let address = first.underlay.address(NUMBER + index);
        let name = replica_name(index);
        let host = first.lab.host(&name).on(&first.fabric).address(address).build().await?;
        let state = first.lab.directory().join(format!("state-{name}"));
        Ok(ControlPlane::new(host, address.addr(), state, first.binaries.clone(), &[]))
    }

    /// Starts everything for the first time, and waits until all serve: etcd, the replicas one after the other, haproxy.
    ///
    /// # Errors
    /// When one of the programs refuses.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        self.launch_first().await?;
        for index in 1..3 {
            self.launch_replica(index).await?;
        }
        self.haproxy.start().await?;
        self.deployment.set_server(self.haproxy.endpoint());
        Ok(())
    }

    /// Starts etcd and the first replica for the first time, and nothing else; waits until they serve. Nodes and
    /// lodenctl dial the replica itself then.
    ///
    /// # Errors
    /// When one of the programs refuses.
    pub async fn launch_first(&mut self) -> anyhow::Result<()> {
        self.etcd.start().await?;
        fs::write(self.seal(), SEAL)?;
        self.store(&["create"]).await?;
        self.launch_replica(0).await?;
        self.deployment.set_server(self.deployment.control.endpoint());
        Ok(())
    }

    /// Starts one of them for the first time.
    async fn launch_replica(&mut self, index: u8) -> anyhow::Result<()> {
        let (seal, shared, flags) = (self.seal(), self.etcd.flags(PREFIX), self.flags.clone());
        let replica =
            self.replicas_mut().into_iter().nth(index.into()).context("there are three replicas")?;
        let own = [
            ("--ca-seal-file", seal.display().to_string()),
            ("--replica-address", replica.address().to_string()),
            ("--name", replica_name(index)),
        ];
        let own = own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        replica.set_flags(own.chain(shared).chain(flags).collect());
        replica.start().await
    }

    /// The file that the CA is sealed with.
    #[must_use]
    pub fn seal(&self) -> PathBuf {
        self.deployment.lab.directory().join("ca-seal")
    }

    /// Does something with the store that the replicas share: `loden-control-plane store` on the first one's host and
    /// state directory.
    ///
    /// # Errors
    /// When the program refuses.
    pub async fn store(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.deployment.binaries.control_plane);
        command
            .args(["--cluster", "demo", "store"])
            .args(arguments)
            .args(self.etcd.flags(PREFIX))
            .arg("--ca-seal-file")
            .arg(self.seal())
            .arg("--state-dir")
            .arg(&self.deployment.control.state);
        let host = self.deployment.control.host.clone();
        let output = tokio::task::spawn_blocking(move || host.enter(|| command.output())).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "store {arguments:?}: {}", said.trim());
        Ok(())
    }

    /// The replicas, in their order.
    #[must_use]
    pub fn replicas(&self) -> [&ControlPlane; 3] {
        let [second, third] = &self.others;
        [&self.deployment.control, second, third]
    }

    /// The same, to be killed and started.
    pub fn replicas_mut(&mut self) -> [&mut ControlPlane; 3] {
        let [second, third] = &mut self.others;
        [&mut self.deployment.control, second, third]
    }

    /// Waits until every replica serves.
    ///
    /// # Errors
    /// When one does not within `timeout`.
    pub async fn ready(&self, timeout: Duration) -> anyhow::Result<()> {
        for replica in self.replicas() {
            replica.ready(timeout).await?;
        }
        Ok(())
    }

    /// The addresses of all replicas, for nodes that know them.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.replicas().map(ControlPlane::endpoint).join(",")
    }

    /// A channel through haproxy from the clients' host, as whoever the certificate in `identity` names. It connects
    /// at its first call, and again by itself, and ends with this cluster.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub async fn channel(&self, identity: &Path) -> anyhow::Result<Channel> {
        self.channel_to(&self.haproxy.endpoint(), identity).await
    }

    /// The same to one replica.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub async fn channel_past(&self, replica: usize, identity: &Path) -> anyhow::Result<Channel> {
        self.channel_to(&self.replicas()[replica].endpoint(), identity).await
    }

    async fn channel_to(&self, endpoint: &str, identity: &Path) -> anyhow::Result<Channel> {
        let server: ServerAddress = endpoint.parse()?;
        let credentials = Credentials::watched(identity)?;
        let inside = match self.inside.get() {
            Some(inside) => inside,
            None => {
                let inside = self.clients.runtime()?;
                self.inside.get_or_init(|| inside)
            }
        };
        let connecting = async move { connect_lazy(&[server], &credentials, &ConnectOptions::default()) };
        Ok(inside.run(connecting).await??)
    }
}

fn replica_name(index: u8) -> String {
    format!("control{}", index + 1)
}
