//! `loden-agent`: wires the agent to the kernel and waits.

// They panic when nobody takes what is printed; see `loden_process::lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use loden_agent::agent::{Agent, Connection};
use loden_agent::channels::Channels;
use loden_agent::config::{Command, Flags, JoinArgs};
use loden_agent::introspection::Introspection;
use loden_agent::join::{self, JoinError, Joining};
use loden_agent::presence::{self, Unclaimed};
use loden_agent::renewal::{Renewal, RenewalMetrics};
use loden_agent::tunnel_metrics::TunnelMetrics;
use loden_agent::{USER_AGENT, cleanup, descriptors};
use loden_datapath::firewall::Nft;
use loden_datapath::kernel::{Kernel, Tunnels};
use loden_process::{completions, exit, lines, operations, settings, signals};
use loden_proto::names::NodeId;
use loden_transport::{
    ConnectError, ConnectOptions, Credentials, Dialled, Role, SpiffeId, connect_lazy, explain,
};
use prometheus_client::registry::Registry;
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Code;
use tracing::{info, warn};

/// What a snapshot of thousands of peers took goes back to the kernel; see `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read when it is there and no other is given.
const CONFIG_FILE: &str = "/etc/loden/agent.toml";

/// `--identity` does not name what an agent needs.
#[derive(Debug, thiserror::Error)]
enum WrongIdentity {
    #[error(transparent)]
    Unusable(ConnectError),
    #[error("{}: the identity is {id}, not a node's", directory.display())]
    NotANodes { directory: PathBuf, id: SpiffeId },
}

fn main() -> ExitCode {
    let files = [PathBuf::from(CONFIG_FILE)];
    let flags: Flags = settings::load(&files);
    let done = match &flags.command {
        Some(Command::Completions { shell }) => {
            let command = settings::command::<Flags>(&files);
            completions::write(*shell, command, &mut std::io::stdout()).map_err(Into::into)
        }
        Some(Command::Cleanup) => clean_up(&flags),
        Some(Command::Join(args)) => join_as_told(args),
        None => {
            if let Err(invalid) = flags.check() {
                lines::error(format_args!("loden-agent: {invalid}"));
                return exit::USAGE.into();
            }
            flags.log.init().map_err(Into::into).and_then(|()| run(&flags, descriptors::tunnels()))
        }
    };
    match done {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            lines::error(format_args!("loden-agent: {error:#}"));
            if error.is::<WrongIdentity>() { exit::USAGE.into() } else { exit::FAILED.into() }
        }
    }
}

#[tokio::main]
async fn clean_up(flags: &Flags) -> anyhow::Result<()> {
    let outcome = cleanup::run(&flags.places(), &Kernel::open()?, &mut Nft).await?;
    for line in &outcome.removed {
        lines::out(format_args!("removed: {line}"));
    }
    for line in &outcome.kept {
        lines::out(format_args!("kept: {line}"));
    }
    if outcome.removed.is_empty() && outcome.failed.is_empty() {
        lines::out("nothing of Loden's was found");
    }
    for line in &outcome.failed {
        lines::error(format_args!("not removed: {line}"));
    }
    ensure!(outcome.failed.is_empty(), "{} things could not be removed", outcome.failed.len());
    Ok(())
}

#[tokio::main]
async fn join_as_told(args: &JoinArgs) -> anyhow::Result<()> {
    let JoinArgs { server, token, node, identity } = args.clone();
    let id = join(Joining { servers: server, token, node, identity: identity.clone() }).await?;
    lines::out(format_args!("{id} in {}", identity.display()));
    Ok(())
}

/// Joins, by the name of this host where none is given: what the token is for is known to the control plane.
async fn join(joining: Joining) -> anyhow::Result<SpiffeId> {
    let given = joining.node.is_some();
    let node = joining.node.clone().or_else(own_name);
    let named = Joining { node, ..joining.clone() };
    match named.join().await {
        // The host's name is no more than a guess.
        Err(JoinError::Refused(status)) if !given && status.code() == Code::PermissionDenied => {
            Joining { node: None, ..joining }.join().await.map_err(|_| JoinError::Refused(status).into())
        }
        joined => Ok(joined?),
    }
}

/// The host's name, if a node may have it.
fn own_name() -> Option<NodeId> {
    let name = nix::unistd::gethostname().ok()?;
    name.to_str()?.to_ascii_lowercase().parse().ok()
}

/// Joins with the token of the settings where there is no identity, or one that has ended. With the latter it goes on:
/// what forwards keeps forwarding.
async fn join_if_needed(flags: &Flags) -> anyhow::Result<()> {
    let Some(token) = flags.token.filter(|_| join::is_needed(&flags.identity, SystemTime::now())) else {
        return Ok(());
    };
    let (servers, identity) = (flags.server.clone(), flags.identity.clone());
    let joined = join(Joining { servers, token, node: flags.node.clone(), identity }).await;
    match joined {
        Err(error) if flags.identity.exists() => {
            warn!(%error, "this node's certificate has ended, and the token does not give it another one");
            Ok(())
        }
        joined => joined.map(drop),
    }
}

#[tokio::main]
async fn run(flags: &Flags, tunnels: Tunnels) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    match presence::claim().await {
        Ok(claim) => drop(tokio::spawn(claim.keep())),
        Err(taken @ Unclaimed::Taken(_)) => return Err(taken.into()),
        Err(error) => warn!(error = explain(&error), "another agent or a cleanup will not be noticed"),
    }
    join_if_needed(flags).await?;
    let credentials = Credentials::watched(&flags.identity).map_err(WrongIdentity::Unusable)?;
    let id = credentials.id();
    let Role::Node(node) = id.role.clone() else {
        return Err(WrongIdentity::NotANodes { directory: flags.identity.clone(), id }.into());
    };
    let options = ConnectOptions {
        user_agent: USER_AGENT.to_owned(),
        dialled: Dialled::of(&flags.server),
        ..ConnectOptions::default()
    };
    let (channels, channel) = watch::channel(connect_lazy(&flags.server, &credentials, &options)?);
    let listener = TcpListener::bind(flags.operations)
        .await
        .with_context(|| format!("cannot listen on {} for operations", flags.operations))?;

    let connection = Connection {
        node,
        channels: Channels::new(channel),
        dialled: options.dialled.clone(),
        origins: options.origins.clone(),
    };
    let open = |_: &_| Kernel::open_with(tunnels.clone());
    let mut agent = Agent::start(flags.agent(), &connection, Nft, open)?;
    let mut registry = Registry::default();
    agent.register(&mut registry);
    registry.register_collector(Box::new(TunnelMetrics::of(tunnels.clone())));
    let metrics = RenewalMetrics::default();
    metrics.register(&mut registry);
    let renewal = Renewal {
        identity: flags.identity.clone(),
        servers: flags.server.clone(),
        credentials,
        options,
        channels,
        generation: connection.channels.generation(),
        renews: !flags.no_renewal,
        metrics,
    };
    tokio::spawn(renewal.run());
    let readiness = agent.readiness();
    let (ending, ended) = watch::channel(());
    let stopped = || {
        let mut ended = ended.clone();
        async move { drop(ended.changed().await) }
    };
    let metrics = Arc::new(Mutex::new(registry));
    let mut operations = tokio::spawn(operations::serve(listener, readiness.clone(), metrics, stopped()));
    let networks = flags.network.iter().filter_map(|id| Some((id.clone(), agent.overview(id)?)));
    let introspection = Introspection {
        node: connection.node.clone(),
        identity: flags.identity.clone(),
        readiness: readiness.clone(),
        networks: networks.collect(),
    };
    let introspection = tokio::spawn(introspection.serve(flags.socket.clone(), stopped()));
    tokio::spawn(announce(readiness));

    let mut unserved = None;
    let result = agent.run(async {
        tokio::select! {
            signal = shutdown => info!(signal, "ending; forwarding stays as it is"),
            served = &mut operations => unserved = Some(served),
        }
    });
    result.await?;
    if let Some(served) = unserved {
        served??;
        bail!("operations are not served any more; forwarding stays as it is");
    }
    drop(ending);
    operations.await??;
    introspection.await?;
    Ok(())
}

/// Tells the service manager when the agent is ready for the first time.
async fn announce(mut readiness: watch::Receiver<operations::Readiness>) {
    if readiness.wait_for(|readiness| readiness.ready).await.is_ok()
        && let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready])
    {
        warn!(%error, "the service manager could not be told");
    }
}
