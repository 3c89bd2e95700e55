//! The control plane's program: settings, log, serve, signals.

// They panic when nobody takes what is printed; see `loden_process::lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Program, ExitCode};
use std::time::SystemTime;

use anyhow::{Context, bail};
use loden_control_plane::config::{Arguments, Command, Config, DEFAULT_FILE, IssueArgs, StoreCommand};
use loden_control_plane::identity::{IssueError, Order, issue};
use loden_control_plane::recover::{self, Recovery};
use loden_control_plane::server::{Ending, Server};
use loden_control_plane::transfer::{self, Copied};
use loden_process::{completions, exit, lines, settings, signals};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tikv_jemallocator::Jemalloc;
use tracing::{info, warn};

/// A lease takes hundreds of small allocations on several threads, between which the system's allocator grows and
/// shrinks its heaps.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Over what the allocator was built with (`.cargo/config.toml`): what one burst has freed is there for the next, and
/// goes back to the kernel soon, whether or not anybody allocates then. What is large goes back at once, so that a
/// buffer of which a connection uses little takes little.
// SAFETY: jemalloc looks for this name, and nobody else has it; what stands there is text that ends with a NUL.
#[allow(unsafe_code, reason = "a name that jemalloc looks for; see SAFETY")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8; 95] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,oversize_threshold:16384,background_thread:true\0";

fn main() -> ExitCode {
    let files = [PathBuf::from(DEFAULT_FILE)];
    let arguments: Arguments = settings::load(&files);
    // Keys and leases are nobody else's to read, whatever library writes them.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let result = match arguments.command {
        Some(Command::Completions { shell }) => {
            completions::write(shell, settings::command::<Arguments>(&files), &mut io::stdout())
                .context("completions")
        }
        Some(Command::Issue(order)) => match issue_bundle(&arguments.config, order) {
            Err(error) if error.is_usage() => {
                lines::error(format_args!("error: {error}"));
                return ExitCode::from(exit::USAGE);
            }
            issued => issued.map_err(Into::into),
        },
        Some(Command::Recover) => match recover::recover(&arguments.config) {
            Err(error) if error.is_usage() => {
                lines::error(format_args!("error: {error}"));
                return ExitCode::from(exit::USAGE);
            }
            noted => noted.map(|recovery| tell(&arguments.config, &recovery)).map_err(Into::into),
        },
        Some(Command::Store(command)) => store(&arguments.config, &command),
        None | Some(Command::Serve) => {
            if let Err(invalid) = arguments.config.check() {
                lines::error(format_args!("error: {invalid}"));
                return ExitCode::from(exit::USAGE);
            }
            if let Err(error) = arguments.log.init() {
                lines::error(format_args!("error: {error}"));
                return ExitCode::from(exit::USAGE);
            }
            serve(arguments.config)
        }
    };
    match result {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            lines::error(format_args!("error: {}", explain(&error)));
            ExitCode::from(exit::FAILED)
        }
    }
}

/// The error and its causes, each said once: many of our errors say their cause themselves.
fn explain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
        text
    })
}

fn issue_bundle(config: &Config, order: IssueArgs) -> Result<(), IssueError> {
    let IssueArgs { role, name, out, validity, epoch, force } = order;
    let order = Order { role, name, out, validity, epoch, force };
    let bundle = issue(&config.pki_dir(), &order, SystemTime::now())?;
    lines::out(format_args!("{} in {}", bundle.id(), order.out.display()));
    Ok(())
}

fn tell(config: &Config, recovery: &Recovery) {
    let (marker, directory) = (recovery.marker.display(), config.state_dir.display());
    let found = if recovery.was_empty { ", which was empty" } else { "" };
    lines::out(format_args!(
        "noted {marker} in {directory}{found}: the next start collects leases from the agents"
    ));
}

fn store(config: &Config, command: &StoreCommand) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        StoreCommand::Create => {
            let made = runtime.block_on(transfer::create(config))?;
            lines::out(format_args!("made {made}"));
        }
        StoreCommand::Copy { from, to } => {
            let copied = runtime.block_on(transfer::copy(config, from, to))?;
            let Copied { records, revision } = copied;
            lines::out(format_args!("copied {records} records from {from} to {to}, at revision {revision}"));
        }
        StoreCommand::ShareCa => {
            let store = runtime.block_on(transfer::share_ca(config))?;
            lines::out(format_args!("the CA in {} is shared in {store}", config.pki_dir().display()));
        }
    }
    Ok(())
}

/// How a run ends when nothing has failed for good.
enum Ended {
    AsAsked,
    /// The store can be opened anew, by a new process in our place.
    Restart,
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(config))?;
    drop(runtime);
    match ended {
        Ended::AsAsked => Ok(()),
        Ended::Restart => match restart() {
            Err(error) => Err(error).context("the process cannot start itself anew"),
        },
    }
}

async fn run(config: Config) -> anyhow::Result<Ended> {
    let shutdown = signals::shutdown()?;
    let mut server = Server::start(config).await?;
    // Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = tokio::select! {
        signal = shutdown => {
            info!(signal, "shutting down");
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            Ended::AsAsked
        }
        ending = server.ended() => match ending {
            Ending::StoreRecoverable(cause) => {
                warn!(%cause, "the store had failed and can be opened anew; the process starts itself anew");
                Ended::Restart
            }
            Ending::StoreLost(error) => return Err(error).context("the ledger has lost its store"),
            Ending::TaskDied(task) => bail!("a defect has ended the task \"{task}\" of the server"),
        },
    };
    let hurry = signals::shutdown()?;
    tokio::select! {
        () = server.shutdown() => Ok(ended),
        signal = hurry => {
            info!(signal, "clients are not waited for");
            Ok(Ended::AsAsked)
        }
    }
}

/// Replaces this process by a new one with the same arguments and process id.
fn restart() -> io::Result<Infallible> {
    let program = std::env::current_exe()?;
    Err(Program::new(program).args(std::env::args_os().skip(1)).exec())
}
