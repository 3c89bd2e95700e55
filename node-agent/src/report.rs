//! Tells the control plane what the kernel has made of the peers: at the
//! server's pace, and at once when a failure or readiness is new.
//!
//! A node that cannot get as far as a watch says why, too.

use std::time::Duration;

use loden_proto::convert::timestamp;
use loden_proto::names::NetworkId;
use loden_proto::{names, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::control::ControlPlane;
use crate::problem::Problem;
use crate::status::{Overview, Standing};
use crate::told::Told;

/// Until the server has said how often, and after it did not answer.
const PACE: Duration = Duration::from_secs(10);
/// What is new waits at least this long after the last report, so that a
/// storm of failures is a few reports.
const BREATH: Duration = Duration::from_millis(250);

/// Reports until its channel closes.
pub(crate) async fn run(control: ControlPlane, network: NetworkId, mut overview: watch::Receiver<Overview>) {
    let mut last: Option<(Instant, Overview)> = None;
    let mut next = Instant::now();
    let mut unwatched = Instant::now();
    loop {
        if overview.wait_for(has_something_to_say).await.is_err() {
            return;
        }
        let now = overview.borrow_and_update().clone();
        if now.link.connected {
            unwatched = Instant::now();
        }
        let urgent = last.as_ref().is_none_or(|(_, before)| is_news(before, &now));
        let due = match &last {
            Some((when, _)) if urgent => *when + BREATH,
            Some(_) => next,
            None => Instant::now(),
        };
        // Most nodes without a watch will have one in a moment.
        let due = if now.link.connected { due } else { due.max(next).max(unwatched + PACE) };
        if due > Instant::now() {
            tokio::select! {
                () = sleep_until(due) => {}
                changed = overview.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        let sent = overview.borrow_and_update().clone();
        let pace = match control.report(request(&sent, &network)).await {
            Ok(pace) => pace,
            Err(status) => {
                debug!(%status, "status not reported");
                PACE
            }
        };
        let when = Instant::now();
        last = Some((when, sent));
        next = when + pace.max(BREATH);
    }
}

/// Whether there is anything to tell, and perhaps somebody to tell it to.
fn has_something_to_say(overview: &Overview) -> bool {
    let away = matches!(overview.standing(), Standing::Troubled(Problem::Away(_)));
    overview.link.connected || (!away && overview.unready().is_some())
}

/// Whether somebody should hear of it at once.
fn is_news(before: &Overview, now: &Overview) -> bool {
    before.link.opened != now.link.opened
        || before.unready() != now.unready()
        || before.applied.failures != now.applied.failures
        || !before.warnings().eq(now.warnings())
}

fn request(overview: &Overview, network: &NetworkId) -> v1::ReportStatusRequest {
    let applied = &overview.applied;
    let told = Told::of(overview);
    v1::ReportStatusRequest {
        network: names::network(network),
        applied_token: applied.token.clone().map(Into::into).unwrap_or_default(),
        apply_time: applied.time.map(timestamp),
        failures: told.failures,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peers: told.peers,
        ready: told.ready,
        not_ready_reason: told.not_ready_reason,
        warnings: told.warnings,
        failures_left_out: told.failures_left_out,
        warnings_left_out: told.warnings_left_out,
    }
}
