//! The operator's view of Loden.
//!
//! ```text
//! arguments ──▶ noun (network, lease, …) ──RPC──▶ control plane
//!                  │
//!                  └─ wire message ──▶ view ──▶ table | JSON on standard output
//! ```
//!
//! Nothing is decided here: values go to the control plane as they were typed,
//! and its message comes back as it is.

// They panic when nobody takes what is printed; see `loden_process::lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod age;
mod arguments;
mod authority;
mod connection;
mod endpoint;
mod failure;
mod lease;
mod network;
mod node;
mod output;
mod peers;
mod pool;
mod reservation;
mod status;
mod token;

use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::time::Duration;

use loden_process::{completions, exit, lines, settings};

use crate::arguments::{Arguments, ConnectionArgs, Noun, RemoteNoun, default_files};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let arguments: Arguments = settings::load(&default_files());
    match run(arguments) {
        Ok(()) => ExitCode::from(exit::OK),
        // Whoever read our output has seen enough of it.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(exit::OK),
        Err(failure) => {
            lines::error(output::lines(&format!("lodenctl: {failure}")));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let noun = match arguments.noun {
        Noun::Completions { shell } => {
            let command = settings::command::<Arguments>(&default_files());
            return Ok(completions::write(shell, command, &mut io::stdout())?);
        }
        Noun::Remote(noun) => noun,
    };
    let limit = if noun.is_endless() { Duration::MAX } else { arguments.timeout };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ConnectionArgs { server, identity } = &arguments.connection;
        let connection = Connection::open(server, identity.as_deref()).await?;
        tokio::time::timeout(limit, answer(noun, &connection, arguments.output))
            .await
            .map_err(|_| Failure::TimedOut(limit))?
    })
}

async fn answer(noun: RemoteNoun, connection: &Connection, output: Output) -> Result<(), Failure> {
    match noun {
        RemoteNoun::Network(verb) => verb.run(connection, output).await,
        RemoteNoun::Lease(verb) => verb.run(connection, output).await,
        RemoteNoun::Reservation(verb) => verb.run(connection, output).await,
        RemoteNoun::Node(verb) => verb.run(connection, output).await,
        RemoteNoun::Peers(verb) => verb.run(connection, output).await,
        RemoteNoun::Ca(verb) => verb.run(connection, output).await,
        RemoteNoun::Token(verb) => verb.run(connection, output).await,
        RemoteNoun::Status => status::run(connection, output).await,
    }
}
