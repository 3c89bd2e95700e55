//! What everybody who keeps something in the kernel has in common: hints, retries, and looks without a cause.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::session::{Timing, backoff};

/// Between looks without any hint.
const AUDIT: Duration = Duration::from_secs(300);
/// After failures; a retry costs a whole look.
const RETRIES: Timing = Timing {
    first_wait: Duration::from_millis(200),
    longest_wait: LONGEST_WAIT,
    connect: Duration::ZERO,
    interval: Duration::ZERO,
};
/// Between attempts at what has failed again and again.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When to look again after so many failures.
pub(crate) fn next_try(failures: u32) -> Instant {
    Instant::now() + backoff(&RETRIES, failures, None, 0.5 + rand::random::<f64>() / 2.0)
}

/// When to look though nothing was heard.
pub(crate) fn next_audit() -> Instant {
    Instant::now() + AUDIT.mul_f64(0.9 + rand::random::<f64>() / 5.0)
}

/// The next hint; `None` when the stream has ended. Of no stream nothing comes.
pub(crate) async fn heard<H>(hints: &mut Option<mpsc::Receiver<H>>) -> Option<H> {
    match hints {
        Some(hints) => hints.recv().await,
        None => std::future::pending().await,
    }
}
