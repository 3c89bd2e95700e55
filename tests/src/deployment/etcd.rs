//! A real etcd cluster, each member on a host of its own.
//!
//! ```text
//!  fabric ─┬─ etcd1 (.5)   clients on 2379 (TLS and users if asked for), members on 2380, health on 2381
//!          ├─ etcd2 (.6)
//!          └─ etcd3 (.7)   a leader is elected within a second or two of the loss of one
//! ```
//!
//! Data is in the lab's directory and outlives a member's process.

mod certificates;
mod leader;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;

use self::certificates::Certificates;
use self::leader::{Standing, leader};
use super::{Daemon, Underlay, http, ready::ready};
use crate::hosts::{Fabric, Lab};
use crate::wait;

/// The underlay number of the first member's host.
const FIRST: u8 = 5;
const CLIENTS: u16 = 2379;
const MEMBERS: u16 = 2380;
const HEALTH: u16 = 2381;
/// How long a start or an election may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a cluster is like.
#[derive(Clone, Copy, Debug)]
pub struct EtcdSettings {
    /// How many members it has: 1 or 3.
    pub members: u8,
    /// Whether clients have to speak TLS and show a certificate.
    pub tls: bool,
    /// What the user `root` has to say, if there are users at all.
    pub password: Option<&'static str>,
    /// Whether what is acknowledged is on disk. Without it a test that writes much is not slowed down by the disk; a
    /// member that is killed loses nothing either way, since the kernel has it.
    pub fsync: bool,
}

impl Default for EtcdSettings {
    /// Three members as operators have them, but for TLS and users.
    fn default() -> Self {
        Self { members: 3, tls: false, password: None, fsync: true }
    }
}

/// A cluster. Dropping it ends its members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Daemon>,
    addresses: Vec<IpAddr>,
    certificates: Option<Certificates>,
    /// Once there are users.
    password: Option<&'static str>,
    settings: EtcdSettings,
    password_file: PathBuf,
}

impl Etcd {
    /// Makes the hosts; nothing runs yet.
    ///
    /// # Errors
    /// When the machine refuses.
    pub async fn prepare(
        lab: &Lab,
        fabric: &Fabric,
        underlay: Underlay,
        settings: EtcdSettings,
    ) -> anyhow::Result<Self> {
        let seats = (1..=settings.members).zip(FIRST..);
        let seats: Vec<_> =
            seats.map(|(number, seat)| (format!("etcd{number}"), underlay.address(seat))).collect();
        let addresses: Vec<IpAddr> = seats.iter().map(|(_, address)| address.addr()).collect();
        let make = || Certificates::make(&lab.directory().join("etcd-tls"), &addresses);
        let certificates = settings.tls.then(make).transpose()?;
        let cluster: Vec<_> = seats
            .iter()
            .map(|(name, address)| format!("{name}={}", url("http", address.addr(), MEMBERS)))
            .collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for (name, address) in seats {
            let host = lab.host(&name).on(fabric).address(address).build().await?;
            let scheme = if settings.tls { "https" } else { "http" };
            let (clients, peers) =
                (url(scheme, address.addr(), CLIENTS), url("http", address.addr(), MEMBERS));
            let health = url("http", address.addr(), HEALTH);
            let mut arguments: Vec<OsString> = [
                ["--name", &name],
                ["--listen-client-urls", &clients],
                ["--advertise-client-urls", &clients],
                ["--listen-peer-urls", &peers],
                ["--initial-advertise-peer-urls", &peers],
                ["--listen-metrics-urls", &health],
                ["--initial-cluster", &cluster],
                ["--initial-cluster-state", "new"],
                // Members of another lab are none of ours.
                ["--initial-cluster-token", lab.id()],
                ["--heartbeat-interval", "100"],
                ["--election-timeout", "1000"],
                ["--logger", "zap"],
                ["--log-level", "warn"],
            ]
            .concat()
            .into_iter()
            .map(OsString::from)
            .collect();
            arguments.push("--data-dir".into());
            arguments.push(lab.directory().join(&name).into());
            if !settings.fsync {
                arguments.push("--unsafe-no-fsync".into());
            }
            if let Some(certificates) = &certificates {
                arguments.extend(certificates.server_arguments());
            }
            members.push(Daemon::new(host, "etcd", arguments));
        }
        let password_file = lab.directory().join("etcd-password");
        Ok(Self { members, addresses, certificates, password: None, settings, password_file })
    }

    /// Starts all members for the first time, and waits until each of them serves, to whom it should.
    ///
    /// # Errors
    /// When one does not within half a minute.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.spawn()?;
        }
        self.healthy().await?;
        match self.settings.password {
            Some(password) => self.protect(password).await,
            None => Ok(()),
        }
    }

    /// Waits until each member that runs serves, which takes a leader.
    ///
    /// # Errors
    /// When one does not within half a minute.
    pub async fn healthy(&self) -> anyhow::Result<()> {
        for (member, address) in self.members.iter().zip(&self.addresses) {
            let Some(process) = &member.process else { continue };
            let health = SocketAddr::new(*address, HEALTH);
            ready(member.host.name(), Some(process), PATIENCE, async || {
                http::get(&member.host, health, "/health").await
            })
            .await?;
        }
        Ok(())
    }

    /// The members, in their order.
    #[must_use]
    pub fn members(&self) -> &[Daemon] {
        &self.members
    }

    /// A member by its place in the order.
    ///
    /// # Errors
    /// When there is none.
    pub fn member(&mut self, index: usize) -> anyhow::Result<&mut Daemon> {
        self.members.get_mut(index).with_context(|| format!("etcd has no member {index}"))
    }

    /// A member's address.
    ///
    /// # Errors
    /// When there is none.
    pub fn address(&self, index: usize) -> anyhow::Result<IpAddr> {
        self.addresses.get(index).copied().with_context(|| format!("etcd has no member {index}"))
    }

    /// What a member's clients dial.
    ///
    /// # Errors
    /// When there is none.
    pub fn endpoint(&self, index: usize) -> anyhow::Result<String> {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        Ok(url(scheme, self.address(index)?, CLIENTS))
    }

    /// Where `ca.crt` is, and a client's `client.crt` and `client.key`, if clients have to speak TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Path> {
        self.certificates.as_ref().map(Certificates::directory)
    }

    /// The place in the order of the member that leads.
    ///
    /// # Errors
    /// When none does within half a minute.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let found = wait::until("etcd to have a leader", PATIENCE, async || {
            let standings = join_all((0..self.members.len()).map(|index| self.standing(index))).await;
            let standings: Vec<_> = standings.into_iter().map(Result::ok).collect();
            leader(&standings).with_context(|| format!("of {standings:?} none leads"))
        });
        Ok(found.await?)
    }

    /// What a control plane is told of it: `--store` and what belongs to that. `prefix` has no slash.
    #[must_use]
    pub fn flags(&self, prefix: &str) -> Vec<String> {
        let scheme = if self.certificates.is_some() { "etcds" } else { "etcd" };
        let addresses = self.addresses.iter().map(|address| SocketAddr::new(*address, CLIENTS).to_string());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        let mut flags = vec!["--store".to_owned(), format!("{scheme}://{addresses}/{prefix}")];
        if let Some(certificates) = &self.certificates {
            flags.extend(certificates.control_plane_flags());
        }
        if self.password.is_some() {
            flags.extend(["--etcd-user", "root", "--etcd-password-file"].map(str::to_owned));
            flags.push(self.password_file.display().to_string());
        }
        flags
    }

    /// Has it ask everybody for a name and a password from now on.
    async fn protect(&mut self, password: &'static str) -> anyhow::Result<()> {
        std::fs::write(&self.password_file, password)?;
        self.etcdctl(0, &["user", "add", &format!("root:{password}")]).await?;
        self.etcdctl(0, &["user", "grant-role", "root", "root"]).await?;
        self.etcdctl(0, &["auth", "enable"]).await?;
        self.password = Some(password);
        Ok(())
    }

    /// Runs etcdctl on a member's host, against that member; answers what it printed.
    ///
    /// # Errors
    /// When it ends with another code than 0, as it does after two seconds without an answer.
    pub async fn etcdctl(&self, member: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let at = self.members.get(member).with_context(|| format!("etcd has no member {member}"))?;
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint(member)?])
            .args(["--dial-timeout", "1s", "--command-timeout", "2s"])
            .args(arguments);
        if let Some(certificates) = &self.certificates {
            command.args(certificates.client_arguments());
        }
        if let Some(password) = self.password {
            command.args(["--user", &format!("root:{password}")]);
        }
        let host = at.host.clone();
        let output = tokio::task::spawn_blocking(move || host.enter(|| command.output())).await?;
        let output = output.context("could not run etcdctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "etcdctl {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn standing(&self, member: usize) -> anyhow::Result<Standing> {
        Standing::parse(&self.etcdctl(member, &["endpoint", "status", "-w", "json"]).await?)
    }
}

fn url(scheme: &str, address: IpAddr, port: u16) -> String {
    format!("{scheme}://{}", SocketAddr::new(address, port))
}
