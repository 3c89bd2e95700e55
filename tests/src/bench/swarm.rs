//! Many clients of one control plane, in a process of their own.
//!
//! ```text
//!  benchmark ── Order (a line of JSON) ──▶ swarm ── mTLS, one connection per node ──▶ control plane
//!            ◀─ Answer ─────────────────── (this program again, on the control plane's host)
//! ```
//!
//! A swarm is one of four: real agents on fake datapaths, bare followers that only read their
//! watch, callers that acquire leases, or watchers of etcd. Its identities are issued in the swarm's memory by the
//! control plane's own CA library. Times come from the swarm's clock alone.

mod agents;
mod callers;
mod changes;
mod driver;
mod etcd_watchers;
mod follower;
mod followers;
mod frame;
mod lags;
mod members;
mod program;
mod sightings;
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use loden_proto::names::ClusterName;
use loden_transport::{Bundle, ServerAddress};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::deployment::Deployment;
use crate::hosts::{Host, Namespace, Process};

pub use program::run as run_program;

/// How long a swarm's process may take to say that it is there.
const START: Duration = Duration::from_secs(60);
/// The subcommand that a program has to have to become a swarm.
pub const SUBCOMMAND: &str = "swarm";

/// What the members of a swarm are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// Whole agents on fake datapaths
    Agents,
    /// Clients that hold a lease and read their watch
    Followers,
    /// Clients that acquire leases
    Callers,
    /// Watchers of one prefix of an etcd, for comparison
    EtcdWatchers,
}

/// What a swarm's process is told on its command line.
#[derive(Args, Clone, Debug)]
pub struct SwarmArgs {
    /// What the members are
    #[arg(long)]
    kind: Kind,
    /// How many there are
    #[arg(long)]
    count: u16,
    /// The control plane
    #[arg(long)]
    server: ServerAddress,
    /// The cluster's name
    #[arg(long)]
    cluster: ClusterName,
    /// Directory of the cluster's CA
    #[arg(long)]
    pki: PathBuf,
    /// Directory for the members' state
    #[arg(long)]
    home: PathBuf,
    /// Socket that orders come from
    #[arg(long)]
    orders: PathBuf,
}

/// Something to do. Each is answered once it is done, or has failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Order {
    /// Everybody joins the network and knows everybody else.
    Join {
        /// The network.
        network: String,
        /// How many agents may be on their way in at the same time; none: all. A swarm is one process, so
        /// a thousand at once starve each other until they take their own silence for the server's.
        at_once: Option<u16>,
    },
    /// One node's address changes, so many times, each once everybody has seen the last.
    Change {
        /// How many times.
        count: u16,
        /// The pause before each.
        pause: Duration,
    },
    /// One node's address changes every so often, so many times, whoever has seen it.
    Steady {
        /// How many times.
        count: u16,
        /// From one to the next.
        period: Duration,
    },
    /// One node is revoked, so many times, each once everybody has forgotten it; then it comes back.
    Revoke {
        /// How many times.
        count: u16,
    },
    /// Remembers which streams are open.
    Mark,
    /// Everybody has opened a stream since the mark, and has applied what it told.
    Rejoined,
    /// As many peers as there are members are put where they will watch.
    Fill {
        /// The network: a prefix.
        network: String,
    },
    /// Everybody connects: a handshake is not part of a call's cost.
    Connect,
    /// So many leases are acquired by all members at once, in networks that exist.
    Acquire {
        /// The networks, by turns.
        networks: Vec<String>,
        /// How many leases in all.
        leases: usize,
    },
}

/// What an order came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Answer {
    /// It is done.
    Done {
        /// How long it took.
        seconds: f64,
    },
    /// The changes were seen by all.
    Changed {
        /// From the call that makes a change to each member's having it, in ms.
        latencies: Vec<f64>,
    },
    /// The changes were made, and all have seen the last.
    Lagged {
        /// How long making them took.
        seconds: f64,
        /// How far behind half of all were at most, in ms: from the call that makes a change to each member's
        /// having it or a later one.
        p50: f64,
        /// The same of 99 %.
        p99: f64,
    },
    /// Everybody is back.
    Rejoined {
        /// How long it took.
        seconds: f64,
        /// How many watches began with a heartbeat: they had missed nothing.
        heartbeats: usize,
        /// How many began with anything else.
        others: usize,
        /// How many attempts had failed.
        attempts: usize,
    },
    /// The leases are acquired.
    Acquired {
        /// How long all of them took.
        seconds: f64,
        /// How long each call took, in ms.
        latencies: Vec<f64>,
    },
    /// It could not be done.
    Failed {
        /// Why not.
        why: String,
    },
}

/// What a swarm's members are clients of.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where it is served.
    pub endpoint: String,
    /// The cluster's name.
    pub cluster: String,
    /// Directory of what identities are made of: for etcd, the watchers' own.
    pub pki: PathBuf,
}

/// A running swarm. Dropping it ends it.
#[derive(Debug)]
pub struct Swarm {
    process: Process,
    orders: OwnedWriteHalf,
    answers: BufReader<OwnedReadHalf>,
}

impl Swarm {
    /// Starts `count` members on the control plane's host. `program` is one that knows
    /// [`SUBCOMMAND`].
    ///
    /// # Errors
    /// When the process cannot be started or does not report.
    pub async fn start(
        deployment: &Deployment,
        program: &Path,
        kind: Kind,
        count: usize,
    ) -> anyhow::Result<Self> {
        Self::start_on(&deployment.control.host, deployment, program, kind, count).await
    }

    /// As [`Self::start`], on another host; the members dial what the deployment's nodes dial.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(
        host: &Host,
        deployment: &Deployment,
        program: &Path,
        kind: Kind,
        count: usize,
    ) -> anyhow::Result<Self> {
        let control = &deployment.control;
        let server = Served {
            endpoint: deployment.server().to_owned(),
            cluster: Bundle::read(&control.admin_identity())?.id().cluster.to_string(),
            pki: control.state.join("pki"),
        };
        Self::start_at(host, deployment.lab.directory(), &server, program, (kind, count)).await
    }

    /// The same for clients of any server, on any host; what they need is kept in `directory`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(
        host: &Namespace,
        directory: &Path,
        server: &Served,
        program: &Path,
        (kind, count): (Kind, usize),
    ) -> anyhow::Result<Self> {
        let (home, socket) = (directory.join("swarm"), directory.join("orders"));
        // A swarm before this one has left its socket.
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let listener = UnixListener::bind(&socket).context("could not listen for the swarm")?;
        let kind = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(program);
        command
            .arg(SUBCOMMAND)
            .args(["--kind", &kind, "--count", &count.to_string()])
            .args(["--server", &server.endpoint, "--cluster", &server.cluster])
            .arg("--pki")
            .arg(&server.pki)
            .arg("--home")
            .arg(home)
            .arg("--orders")
            .arg(&socket);
        let process = host.spawn("swarm", command)?;
        let accepted = tokio::select! {
            accepted = timeout(START, listener.accept()) => accepted,
            ended = process.wait_exit(START) => {
                bail!("the swarm ended with {}\n{}", ended?, process.log().tail())
            }
        };
        let (stream, _) = accepted.map_err(|_| anyhow!("the swarm did not report within {START:?}"))??;
        let (answers, orders) = stream.into_split();
        Ok(Self { process, orders, answers: BufReader::new(answers) })
    }

    /// The process's id, to measure it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has something done and waits for the answer; never answers [`Answer::Failed`].
    ///
    /// # Errors
    /// When it could not be done, the swarm has ended, or `limit` is over.
    pub async fn order(&mut self, order: &Order, limit: Duration) -> anyhow::Result<Answer> {
        let doing = format!("{order:.60?}");
        match timeout(limit, self.exchange(order)).await {
            Ok(Ok(Answer::Failed { why })) => bail!("{doing}: {why}"),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.context(format!("{doing}\n{}", self.process.log().tail()))),
            Err(_) => bail!("{doing}: not done within {limit:?}\n{}", self.process.log().tail()),
        }
    }

    async fn exchange(&mut self, order: &Order) -> anyhow::Result<Answer> {
        self.orders.write_all(line(order)?.as_bytes()).await?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await?;
        serde_json::from_str(&answer).context("the swarm has ended")
    }
}

fn line(message: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string(message)? + "\n")
}
