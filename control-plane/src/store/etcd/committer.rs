//! The task that commits group after group, and waits for an etcd that is away.

use std::sync::Arc;
use std::time::Duration;

use rand::random;
use tokio::time::sleep;
use tracing::{debug, error};

use super::super::queue::{Command, Limits, Queue};
use super::error::{Failure, words};
use super::ground::{Attempt, Ground, Outcome, Wish};

/// What goes into one transaction: etcd takes 1.5 MiB and 128 operations. Everything is written twice, as records and
/// in the log, and there are the head and what is trimmed.
const LIMITS: Limits = Limits { commits: 120, bytes: 256 << 10, changes: 120 };
/// Between attempts while etcd is away.
const PAUSE: Duration = Duration::from_millis(100);

/// Commits until the queue is closed, or what is in etcd cannot be followed any more, which poisons the queue.
pub(super) async fn run(ground: Arc<Ground>, queue: Arc<Queue>) {
    while let Some(group) = queue.next(LIMITS).await {
        let wishes: Vec<Wish> =
            group.into_iter().map(|Command { changes, guards }| (changes, guards)).collect();
        if let Err(failure) = commit(&ground, &queue, &wishes).await {
            return poison(&queue, &failure);
        }
    }
}

/// No commit can be made any more, and what was answered may not be what is in etcd: only a new start mends that.
pub(super) fn poison(queue: &Queue, failure: &Failure) {
    let cause = super::super::Cause::from(failure.to_string());
    queue.poison(cause.clone());
    if failure.is_mended_by_reading() {
        queue.recoverable(cause.clone());
    }
    error!(%cause, "the store in etcd cannot be followed any more");
}

/// One group, for as long as that takes. An attempt whose answer was lost is made again: it is done once or not at all,
/// and whether it was is seen by its nonce.
async fn commit(ground: &Ground, queue: &Queue, wishes: &[Wish]) -> Result<(), Failure> {
    let mut attempt = Attempt { nonce: random(), is_repeated: false };
    loop {
        match ground.commit(wishes, attempt, queue).await {
            Ok(Outcome::Done) => return Ok(()),
            Ok(Outcome::Overtaken) => {}
            Err(Failure::Etcd(error)) => {
                debug!(cause = words(&error), "etcd did not take a group; it is offered again");
                sleep(PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
        attempt.is_repeated = true;
    }
}
