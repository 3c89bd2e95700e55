//! Whether a program serves.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use hyper::StatusCode;

use crate::hosts::Process;
use crate::wait;

/// Waits until `readyz` says yes; answers what it said.
///
/// # Errors
/// When the process ends, or does not say so within `timeout`: with its last answer and the end of its log.
pub(super) async fn ready(
    what: &str,
    process: Option<&Process>,
    timeout: Duration,
    readyz: impl AsyncFn() -> anyhow::Result<(StatusCode, String)>,
) -> anyhow::Result<String> {
    let what = format!("{what} to be ready");
    let ready = wait::until(&what, timeout, async || {
        if let Some(status) = process.and_then(Process::exit_status) {
            return Err(anyhow!("it ended with {status}"));
        }
        let (status, body) = readyz().await?;
        ensure!(status == StatusCode::OK, "{status}: {body}");
        Ok(body)
    });
    let tail = || process.map(|process| process.log().tail()).unwrap_or_default();
    ready.await.map_err(|error| anyhow!("{error}\n{}", tail()))
}
