//! The process of a control plane, alone or one of several replicas, on its host.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use hyper::StatusCode;
use loden_transport::{ConnectOptions, Credentials, ServerAddress, connect};
use tonic::transport::Channel;

use super::{Binaries, http, ready::ready};
use crate::hosts::{Host, Inside, Process, die_with_us};

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(30);
/// How long an end may take: the clients are sent away first, over five seconds.
const END: Duration = Duration::from_secs(30);
/// The control plane's gRPC port.
const PORT: u16 = 7443;
/// The control plane's operations port.
const OPERATIONS: u16 = 7480;

/// The control plane: a host, a state directory, and a process that can be killed and started.
#[derive(Debug)]
pub struct ControlPlane {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    /// The host that it runs on.
    pub host: Host,
    /// Its state directory.
    pub state: PathBuf,
    /// A file of the test's that its log goes to from its next start on, in place of the lab's.
    pub log: Option<PathBuf>,
    ip: IpAddr,
    binaries: Binaries,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    /// Whether it was ever started.
    was_started: bool,
    /// Where its clients live; made with the first.
    inside: OnceLock<Inside>,
}

impl ControlPlane {
    pub(super) fn new(host: Host, ip: IpAddr, state: PathBuf, binaries: Binaries, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            process: None,
            host,
            state,
            log: None,
            ip,
            binaries,
            flags,
            environment: Vec::new(),
            was_started: false,
            inside: OnceLock::new(),
        }
    }

    /// Gives the process other extra flags from its next start on.
    pub(super) fn set_flags(&mut self, flags: Vec<String>) {
        self.flags = flags;
    }

    /// Gives the process more of an environment from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready within half a minute.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.ready(START).await.map(drop)
    }

    /// Starts the process and does not wait. The very first life of a cluster has nobody to wait for and, unless
    /// its flags say otherwise, does not settle.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let program = &self.binaries.control_plane;
        let mut command = match &self.log {
            None => Command::new(program),
            Some(log) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"log=$1; shift; exec "$@" 2>>"$log""#, "sh"]).arg(log).arg(program);
                shell
            }
        };
        command
            .args(["--listen", &self.address().to_string()])
            .args(["--operations", &self.operations().to_string()])
            .args(["--cluster", "demo"])
            .arg("--state-dir")
            .arg(&self.state)
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if !std::mem::replace(&mut self.was_started, true) {
            command.env("LODEN_SETTLE", "0s");
        }
        self.process = Some(self.host.spawn("control-plane", command)?);
        Ok(())
    }

    /// Ends the process as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().ok_or_else(|| anyhow!("the control plane does not run"))?;
        Ok(process.kill9().await?)
    }

    /// Ends the process as an operator would, and waits.
    ///
    /// # Errors
    /// When it does not run or does not end within half a minute.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().ok_or_else(|| anyhow!("the control plane does not run"))?;
        process.terminate()?;
        process.wait_exit(END).await?;
        Ok(())
    }

    /// Waits until `/readyz` says yes; answers what it said.
    ///
    /// # Errors
    /// When it does not within `timeout`, with its last answer.
    pub async fn ready(&self, timeout: Duration) -> anyhow::Result<String> {
        let process = self.process.as_ref();
        ready("the control plane", process, timeout, async || self.get("/readyz").await).await
    }

    /// Gets a path of the operations port.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        http::get(&self.host, self.operations(), path).await
    }

    /// What clients dial.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Where gRPC is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }

    fn operations(&self) -> SocketAddr {
        SocketAddr::new(self.ip, OPERATIONS)
    }

    /// The directory of the admin's certificate.
    #[must_use]
    pub fn admin_identity(&self) -> PathBuf {
        self.state.join("pki/admin")
    }

    /// Runs something on its own host.
    ///
    /// # Errors
    /// When nothing can be run there.
    pub async fn run_inside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let inside = match self.inside.get() {
            Some(inside) => inside,
            None => {
                let inside = self.host.runtime()?;
                self.inside.get_or_init(|| inside)
            }
        };
        Ok(inside.run(work).await?)
    }

    /// A channel to it from its own host, as whoever the certificate in `identity` names. It
    /// connects again by itself, also to a later process, and ends with this control plane.
    ///
    /// # Errors
    /// When the identity cannot be read or the control plane refuses it.
    pub async fn channel(&self, identity: &Path) -> anyhow::Result<Channel> {
        let server: ServerAddress = self.address().to_string().parse()?;
        let credentials = Credentials::watched(identity)?;
        let connecting = async move { connect(&[server], &credentials, &ConnectOptions::default()).await };
        Ok(self.run_inside(connecting).await??)
    }

    /// Issues a certificate for a `node`, `admin` or `reader` into a directory.
    ///
    /// # Errors
    /// When the program refuses.
    pub async fn issue(&self, role: &str, name: &str, out: &Path) -> anyhow::Result<()> {
        let out = out.to_str().context("a directory whose path is no text")?;
        self.run(&["issue", role, name, "--out", out]).await.map(drop)
    }

    /// Runs a subcommand of its program on its state directory; answers what it printed.
    ///
    /// # Errors
    /// When the program refuses.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binaries.control_plane);
        command.arg("--state-dir").arg(&self.state).args(arguments);
        // Whoever gives up meanwhile removes the directory that it writes to.
        die_with_us(&mut command);
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
        let what = arguments.join(" ");
        let output = output.with_context(|| format!("could not run loden-control-plane {what}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "loden-control-plane {what}: {}", said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
