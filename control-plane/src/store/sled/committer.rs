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
        queue::{Command, Condition, Limits, Queue},
        state::{Group, Staged},
    },
    ballast,
    checkpoint::{Checkpoints, Step},
    database::{Database, WriteError},
    layout,
};

/// What goes into one transaction (a single commit may be larger). Sled reuses a segment once what replaced it is
/// stable in a later one, so what is written between two of our fdatasyncs stays below two segments: this much, what
/// sled writes anew of its nodes for it, and a page of records unless the group is large by itself.
const LIMITS: Limits = Limits { commits: 512, bytes: 96 << 10, changes: usize::MAX };
/// How often the supervisor looks, and probes.
const PAUSE: Duration = Duration::from_secs(1);
/// A group that takes longer will not come back: sled waits for ever after a panic in its threads.
const STALLED: Duration = Duration::from_secs(30);
/// As often as this must that be found in a row.
const LOOKS: u32 = 5;

type Outcomes = Vec<Result<Revision, CommitError>>;

/// Writes group after group, until the queue is closed. Whatever else ends it has poisoned the queue first:
/// before anything is said of it, since a log may be on the disk that is full.
pub(super) fn run(database: Database, mut checkpoints: Checkpoints, published: &Published, queue: &Queue) {
    let written = catch_unwind(AssertUnwindSafe(|| write_all(&database, &mut checkpoints, published, queue)));
    let cause = match written {
        Ok(Ok(Ended::Closed)) => return,
        Ok(Ok(Ended::Poisoned)) => None,
        Ok(Err(error)) => Some(Cause::from(error.to_string())),
        Err(panic) => Some(Cause::from(format!("panic in the committer: {}", panic_words(&*panic)))),
    };
    // Dropping the handle would flush, which may hang or write what has failed. The lock stays ours
    // until the process ends, as it must while sled's own threads may still write.
    std::mem::forget(database);
    if let Some(cause) = cause {
        queue.poison(cause.clone());
        error!(%cause, "store poisoned");
    }
}

/// How writing ends without an error of its own.
enum Ended {
    /// As the queue's owner wished.
    Closed,
    /// By the supervisor, while a group was written.
    Poisoned,
}

fn write_all(
    database: &Database,
    checkpoints: &mut Checkpoints,
    published: &Published,
    queue: &Queue,
) -> Result<Ended, WriteError> {
    while let Some(group) = queue.take(LIMITS) {
        let (staged, outcomes) = write(database, checkpoints, published, group)?;
        if !queue.settle(outcomes, || published.publish(staged)) {
            return Ok(Ended::Poisoned);
        }
        published.state().need_after(checkpoints.base().revision);
    }
    Ok(Ended::Closed)
}

/// Ends a stalled group, and looks for a disk that works again once the store is poisoned.
pub(super) fn supervise(dir: &Path, queue: &Queue) {
    let mut stalled = Stalled::default();
    loop {
        match queue.observe(PAUSE) {
            Condition::Closed => return,
            Condition::Working(since) => {
                if let Some(since) = stalled.look(since) {
                    let cause = Cause::from(format!("a write has not finished for {} s", since.as_secs()));
                    queue.poison(cause.clone());
                    error!(%cause, "store poisoned");
                }
            }
            Condition::Poisoned(cause) => {
                if ballast::probe(dir).is_ok() {
                    queue.recoverable(cause.clone());
                    info!(%cause, "the store's disk can be written again");
                    return;
                }
            }
        }
    }
}

/// How often in a row a group was found to take too long. A process that was stopped for so long finds that once, and
/// finishes its group right after.
#[derive(Debug, Default)]
struct Stalled(u32);

impl Stalled {
    /// Looks at how long the group that is being written has taken; answers that if it will not come back.
    fn look(&mut self, since: Option<Duration>) -> Option<Duration> {
        let since = since.filter(|since| *since > STALLED);
        self.0 = if since.is_some() { self.0 + 1 } else { 0 };
        since.filter(|_| self.0 >= LOOKS)
    }
}

/// Decides a group and makes it durable, with what goes with it. Nothing is published yet.
fn write(
    database: &Database,
    checkpoints: &mut Checkpoints,
    published: &Published,
    group: Vec<Command>,
) -> Result<(Staged, Outcomes), WriteError> {
    let (staged, outcomes, wanted) = {
        let state = published.state();
        let mut staged = Staged::on(&state);
        let outcomes: Outcomes = group
            .into_iter()
            .map(|command| {
                staged.stage(&state, command.changes, &command.guards).map_err(CommitError::Conflict)
            })
            .collect();
        let wanted = Group::of(staged.batches())
            .map(|group| (layout::writes(&state, &staged), checkpoints.next(&state, group)));
        (staged, outcomes, wanted)
    };
    let Some((mut writes, step)) = wanted else {
        return Ok((staged, outcomes));
    };
    match step {
        Step::Nothing => {}
        Step::Page(pieces) => writes.snapshots = pieces,
        Step::Base(base) => writes.meta.extend(layout::base(base)),
        Step::Clear => {
            let stale = database.stale(checkpoints.base().snapshot)?;
            if stale.snapshots.is_empty() && stale.records.is_empty() {
                checkpoints.cleared();
            }
            (writes.snapshots, writes.records) = (stale.snapshots, stale.records);
        }
    }
    database.write(&writes)?;
    Ok((staged, outcomes))
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use tracing::{
        Event, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::{
        super::{Change, State, open},
        *,
    };

    #[test]
    fn a_group_has_stalled_when_that_is_found_again_and_again() {
        let (short, long) = (Some(Duration::from_secs(30)), Some(Duration::from_secs(90)));
        let mut stalled = Stalled::default();
        assert!((1..LOOKS).all(|_| stalled.look(long).is_none()));
        // The process was stopped, and goes on.
        assert_eq!((stalled.look(short), stalled.look(None)), (None, None));
        assert!((1..LOOKS).all(|_| stalled.look(long).is_none()));
        assert_eq!(stalled.look(long), long);
    }

    /// A log that panics, as `eprintln!` does when nobody takes what it prints.
    struct Panicking;

    impl Subscriber for Panicking {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            panic!("nobody takes the log")
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    fn store(dir: &Path) -> (Database, Checkpoints, Published, Queue) {
        let (database, contents) = open::open(dir, true).unwrap();
        let checkpoints = Checkpoints::new(&contents, 1 << 20);
        let state = State::restored(contents.loaded, contents.groups, 1 << 20);
        (database, checkpoints, Published::new(state), Queue::new())
    }

    fn command(key: &str) -> Command {
        Command { changes: vec![Change::Delete { key: key.into() }], guards: vec![] }
    }

    /// Runs the committer until it ends, however that is.
    fn run_to_its_end(database: Database, checkpoints: Checkpoints, published: &Published, queue: &Queue) {
        thread::scope(|scope| {
            let committer = scope.spawn(|| {
                let run = || run(database, checkpoints, published, queue);
                tracing::subscriber::with_default(Panicking, run);
            });
            let _ = committer.join();
        });
    }

    #[test]
    fn a_write_that_fails_poisons_whatever_becomes_of_its_line_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (mut database, checkpoints, published, queue) = store(dir.path());
        // No fdatasync of this.
        database.file = Some(File::open("/dev/null").unwrap());
        let mut taken = queue.push(command("a")).unwrap();
        run_to_its_end(database, checkpoints, &published, &queue);
        let poisoned = CommitError::Poisoned("fdatasync: Invalid argument (os error 22)".into());
        assert_eq!(taken.try_recv().unwrap(), Err(poisoned.clone()));
        assert_eq!(queue.push(command("b")).unwrap_err(), poisoned);
    }
}
