//! The signals that end a process.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves to the name of the first SIGTERM or SIGINT after this call.
///
/// The handlers stand when this returns, not only when the future is polled:
/// no signal is lost in between. Needs a tokio runtime with IO enabled.
///
/// # Errors
/// The handlers cannot be installed.
pub fn shutdown() -> io::Result<impl Future<Output = &'static str> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
