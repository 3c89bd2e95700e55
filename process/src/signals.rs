//! The signals that end a process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// As [`shutdown`], and SIGHUP: for programs at a terminal, which may be closed. Whoever ignored SIGHUP when
/// the program was started (`nohup`) means it to go on.
///
/// # Errors
/// The handlers cannot be installed.
pub fn interruption() -> io::Result<impl Future<Output = &'static str> + Send + 'static> {
    let ignored = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
    let mut hangup = if ignored { None } else { Some(signal(SignalKind::hangup())?) };
    let shutdown = shutdown()?;
    Ok(async move {
        tokio::select! {
            signal = shutdown => signal,
            () = received(&mut hangup) => "SIGHUP",
        }
    })
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Reads `SigIgn` of proc_pid_status(5): a mask in hexadecimal, SIGHUP is its lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_found_in_the_status() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("Name:\tx\n"));
    }
}
