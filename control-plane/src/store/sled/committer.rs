//! The thread that writes, and the one that watches it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use tracing::{error, info};

use super::{
    super::{
        Cause, CommitError, Revision,
        follow::Published,
        queue::{Command, Condition, Queue},
        state::Staged,
    },
    ballast,
    database::{Database, WriteError},
    layout,
};

/// Most commits in one transaction.
const GROUP: usize = 512;
/// Most bytes in one transaction (a single commit may be larger). Sled reuses a segment once what replaced it
/// is written; a group that fits into one segment never reuses what it replaced before our fdatasync.
const GROUP_BYTES: usize = 96 << 10;
/// How often the supervisor looks, and probes.
const PAUSE: Duration = Duration::from_secs(1);
/// A group that takes longer will not come back: sled waits for ever after a panic in its threads.
const STALLED: Duration = Duration::from_secs(30);

type Outcomes = Vec<Result<Revision, CommitError>>;

/// Writes group after group, until the queue is closed or a write fails.
pub(super) fn run(database: Database, published: &Published, queue: &Queue) {
    while let Some(group) = queue.take(GROUP, GROUP_BYTES) {
        let cause = match catch_unwind(AssertUnwindSafe(|| write(&database, published, group))) {
            Ok(Ok((staged, outcomes))) => {
                if queue.settle(outcomes, || published.publish(staged)) {
                    continue;
                }
                None
            }
            Ok(Err(error)) => Some(Cause::from(error.to_string())),
            Err(panic) => Some(Cause::from(format!("panic in the committer: {}", panic_words(&*panic)))),
        };
        if let Some(cause) = cause {
            error!(%cause, "store poisoned");
            queue.poison(cause);
        }
        // Dropping the handle would flush, which may hang or write what has failed. The lock stays ours
        // until the process ends, as it must while sled's own threads may still write.
        std::mem::forget(database);
        return;
    }
}

/// Ends a stalled group, and looks for a disk that works again once the store is poisoned.
pub(super) fn supervise(dir: &Path, queue: &Queue) {
    loop {
        match queue.observe(PAUSE) {
            Condition::Closed => return,
            Condition::Working(Some(since)) if since > STALLED => {
                let cause = Cause::from(format!("a write has not finished for {} s", since.as_secs()));
                error!(%cause, "store poisoned");
                queue.poison(cause);
            }
            Condition::Working(_) => {}
            Condition::Poisoned(cause) => {
                if ballast::probe(dir).is_ok() {
                    info!(%cause, "the store's disk can be written again");
                    queue.recoverable(cause);
                    return;
                }
            }
        }
    }
}

/// Decides a group and makes it durable. Nothing is published yet.
fn write(
    database: &Database,
    published: &Published,
    group: Vec<Command>,
) -> Result<(Staged, Outcomes), WriteError> {
    let (staged, outcomes, writes) = {
        let state = published.state();
        let mut staged = Staged::on(&state);
        let outcomes: Outcomes = group
            .into_iter()
            .map(|command| {
                staged.stage(&state, command.changes, &command.guards).map_err(CommitError::Conflict)
            })
            .collect();
        let writes = layout::writes(&state, &staged);
        (staged, outcomes, writes)
    };
    if !staged.batches().is_empty() {
        database.write(&writes)?;
    }
    Ok((staged, outcomes))
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
