//! Commits on their way to the one thread that writes them, and what becomes of them if it cannot.
//!
//! ```text
//!  push ──▶ waiting ──take──▶ in flight ──settle──▶ published, answered
//!              └───────────────────┴──────poison──▶ answered Poisoned, and every later push too
//! ```

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot, watch};

use super::{Cause, Change, CommitError, Guard, Health, MAX_QUEUED, Revision, commit};

/// Where a commit's outcome goes.
pub(super) type Answer = oneshot::Sender<Result<Revision, CommitError>>;

/// One commit to make.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) changes: Vec<Change>,
    pub(super) guards: Vec<Guard>,
}

/// How much is taken at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most commits.
    pub(super) commits: usize,
    /// About how many bytes of keys and values.
    pub(super) bytes: usize,
    /// Most changes.
    pub(super) changes: usize,
}

/// What a supervisor finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Commits are taken; if a group is being written, for how long.
    Working(Option<Duration>),
    /// No commit will be taken any more, because of this.
    Poisoned(Cause),
    /// No commit will be taken any more, as its owner wished.
    Closed,
}

/// The queue in front of a committer thread.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    closing: Condvar,
    /// Rings with `arrived`.
    rung: Notify,
    health: watch::Sender<Health>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(Command, Answer)>,
    in_flight: Vec<Answer>,
    taken_at: Option<Instant>,
    /// No commit is taken for now, because of this.
    suspended: Option<Cause>,
    poisoned: Option<Cause>,
    closed: bool,
}

impl Inner {
    /// Whether there is nothing, and may be something later.
    fn is_waited_for(&self) -> bool {
        self.waiting.is_empty() && self.poisoned.is_none() && !self.closed
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            closing: Condvar::new(),
            rung: Notify::new(),
            health: watch::Sender::new(Health::Healthy),
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Queues a commit behind all earlier ones.
    pub(super) fn push(
        &self,
        command: Command,
    ) -> Result<oneshot::Receiver<Result<Revision, CommitError>>, CommitError> {
        let (answer, outcome) = oneshot::channel();
        let mut inner = self.lock();
        if let Some(cause) = &inner.poisoned {
            return Err(CommitError::Poisoned(cause.clone()));
        }
        if let Some(cause) = &inner.suspended {
            return Err(CommitError::Away(cause.clone()));
        }
        if inner.closed {
            return Err(CommitError::Closed);
        }
        if inner.waiting.len() >= MAX_QUEUED {
            return Err(CommitError::Busy);
        }
        // The committer sleeps only while nothing waits, and whoever came first has woken it. A wake-up is a
        // system call, whether anybody sleeps or not.
        let first = inner.waiting.is_empty();
        inner.waiting.push_back((command, answer));
        drop(inner);
        if first {
            self.arrived.notify_one();
            self.rung.notify_waiters();
        }
        Ok(outcome)
    }

    /// The commits that wait, within limits, but at least one; blocks until there is one. `None` when no more will
    /// come.
    pub(super) fn take(&self, limits: Limits) -> Option<Vec<Command>> {
        let inner = self
            .arrived
            .wait_while(self.lock(), |inner| inner.is_waited_for())
            .unwrap_or_else(PoisonError::into_inner);
        Self::take_from(inner, limits)
    }

    /// As [`Self::take`], for a task.
    pub(super) async fn next(&self, limits: Limits) -> Option<Vec<Command>> {
        loop {
            let mut rung = pin!(self.rung.notified());
            // What comes after the look rings.
            rung.as_mut().enable();
            if let Some(taken) = self.take_now(limits) {
                return taken;
            }
            rung.await;
        }
    }

    /// What [`Self::take`] gives, if that does not wait.
    fn take_now(&self, limits: Limits) -> Option<Option<Vec<Command>>> {
        let inner = self.lock();
        if inner.is_waited_for() { None } else { Some(Self::take_from(inner, limits)) }
    }

    fn take_from(mut inner: MutexGuard<'_, Inner>, limits: Limits) -> Option<Vec<Command>> {
        let mut group = Vec::new();
        let (mut weight, mut changes) = (0, 0);
        while group.len() < limits.commits && weight < limits.bytes {
            let next = inner.waiting.front().map_or(0, |(command, _)| command.changes.len());
            if !group.is_empty() && changes + next > limits.changes {
                break;
            }
            let Some((command, answer)) = inner.waiting.pop_front() else {
                break;
            };
            weight += commit::weight(&command.changes);
            changes += command.changes.len();
            group.push(command);
            inner.in_flight.push(answer);
        }
        if group.is_empty() {
            return None;
        }
        inner.taken_at = Some(Instant::now());
        Some(group)
    }

    /// Publishes what was taken and answers it. False, and nothing is published, if it was poisoned meanwhile.
    pub(super) fn settle(
        &self,
        outcomes: Vec<Result<Revision, CommitError>>,
        publish: impl FnOnce(),
    ) -> bool {
        let mut inner = self.lock();
        if inner.poisoned.is_some() {
            return false;
        }
        publish();
        inner.taken_at = None;
        let answers = std::mem::take(&mut inner.in_flight);
        drop(inner);
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever asked may have gone away; the commit stands.
            let _ = answer.send(outcome);
        }
        true
    }

    /// Answers everything, now and later, with `cause`. The first cause stays.
    pub(super) fn poison(&self, cause: Cause) {
        let mut inner = self.lock();
        if inner.poisoned.is_some() {
            return;
        }
        inner.poisoned = Some(cause.clone());
        inner.taken_at = None;
        let mut answers = std::mem::take(&mut inner.in_flight);
        answers.extend(inner.waiting.drain(..).map(|(_, answer)| answer));
        // Before anybody else may push: who is refused for it finds the store poisoned.
        self.health.send_replace(Health::Poisoned { cause: cause.clone() });
        drop(inner);
        for answer in answers {
            let _ = answer.send(Err(CommitError::Poisoned(cause.clone())));
        }
        self.arrived.notify_all();
        self.rung.notify_waiters();
    }

    /// Takes no commits until [`Self::resume`]; those that wait still do. False if that was so already.
    pub(super) fn suspend(&self, cause: Cause) -> bool {
        let mut inner = self.lock();
        if inner.poisoned.is_some() || inner.suspended.is_some() {
            return false;
        }
        inner.suspended = Some(cause.clone());
        self.health.send_replace(Health::Away { cause });
        true
    }

    /// Takes commits again. False if that was so already.
    pub(super) fn resume(&self) -> bool {
        let mut inner = self.lock();
        let resumed = inner.suspended.take().is_some() && inner.poisoned.is_none();
        if resumed {
            self.health.send_replace(Health::Healthy);
        }
        resumed
    }

    /// Says that opening the store anew is worth trying.
    pub(super) fn recoverable(&self, cause: Cause) {
        self.health.send_replace(Health::Recoverable { cause });
    }

    /// Takes no more commits; those that wait are still made.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
        self.rung.notify_waiters();
        self.closing.notify_all();
    }

    /// Waits for `pause`, or until the queue is closed, and says how things are.
    pub(super) fn observe(&self, pause: Duration) -> Condition {
        let inner = self
            .closing
            .wait_timeout_while(self.lock(), pause, |inner| !inner.closed)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner);
        match &inner.poisoned {
            _ if inner.closed => Condition::Closed,
            Some(cause) => Condition::Poisoned(cause.clone()),
            None => Condition::Working(inner.taken_at.map(|taken_at| taken_at.elapsed())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(key: &str) -> Command {
        Command { changes: vec![Change::Delete { key: key.into() }], guards: vec![] }
    }

    const fn limits(commits: usize, bytes: usize, changes: usize) -> Limits {
        Limits { commits, bytes, changes }
    }

    fn keys(group: Option<Vec<Command>>) -> Vec<String> {
        group.unwrap().iter().map(|command| command.changes[0].key().to_string()).collect()
    }

    #[test]
    fn a_group_is_what_waits_up_to_its_limits() {
        let queue = Queue::new();
        let _outcomes: Vec<_> = ["aa", "bb", "cc", "dd"].map(|key| queue.push(command(key)).unwrap()).into();
        assert_eq!(keys(queue.take(limits(1, 100, 9))), ["aa"]);
        assert_eq!(keys(queue.take(limits(9, 3, 9))), ["bb", "cc"]);
        assert_eq!(keys(queue.take(limits(9, 100, 9))), ["dd"]);
    }

    #[test]
    fn a_group_has_no_more_changes_than_allowed_but_at_least_one_commit() {
        let queue = Queue::new();
        let pair = |key: &str| {
            let change = |name: String| Change::Delete { key: name.into() };
            let changes = vec![change(key.to_owned()), change(format!("{key}-"))];
            Command { changes, guards: vec![] }
        };
        let _outcomes: Vec<_> = ["aa", "bb", "cc"].map(|key| queue.push(pair(key)).unwrap()).into();
        assert_eq!(keys(queue.take(limits(9, 100, 1))), ["aa"]);
        assert_eq!(keys(queue.take(limits(9, 100, 4))), ["bb", "cc"]);
    }

    #[test]
    fn a_suspended_queue_refuses_what_comes_and_keeps_what_waits() {
        let queue = Queue::new();
        let _outcome = queue.push(command("a")).unwrap();
        assert!(queue.suspend("first".into()));
        assert!(!queue.suspend("second".into()));
        assert_eq!(queue.push(command("b")).unwrap_err(), CommitError::Away("first".into()));
        assert_eq!(*queue.health().borrow(), Health::Away { cause: "first".into() });
        assert_eq!(keys(queue.take(limits(9, 100, 9))), ["a"]);
        queue.resume();
        assert_eq!(*queue.health().borrow(), Health::Healthy);
        assert!(queue.push(command("b")).is_ok());
    }

    #[test]
    fn poison_answers_what_was_taken_what_waits_and_what_comes() {
        let queue = Queue::new();
        let mut taken = queue.push(command("a")).unwrap();
        assert_eq!(keys(queue.take(limits(1, 100, 9))), ["a"]);
        let mut waiting = queue.push(command("b")).unwrap();
        queue.poison("first".into());
        queue.poison("second".into());
        let poisoned = CommitError::Poisoned("first".into());
        assert_eq!(taken.try_recv().unwrap(), Err(poisoned.clone()));
        assert_eq!(waiting.try_recv().unwrap(), Err(poisoned.clone()));
        assert_eq!(queue.push(command("c")).unwrap_err(), poisoned);
        assert!(queue.take(limits(1, 100, 9)).is_none());
        assert_eq!(*queue.health().borrow(), Health::Poisoned { cause: "first".into() });
    }

    #[test]
    fn a_late_success_after_poison_is_not_published() {
        let queue = Queue::new();
        let _outcome = queue.push(command("a")).unwrap();
        assert_eq!(keys(queue.take(limits(1, 100, 9))), ["a"]);
        queue.poison("stalled".into());
        let mut published = false;
        assert!(!queue.settle(vec![Ok(Revision(1))], || published = true));
        assert!(!published);
    }

    #[test]
    fn a_committer_that_sleeps_is_woken_by_whatever_comes_first() {
        let queue = Queue::new();
        std::thread::scope(|scope| {
            let committer = scope.spawn(|| {
                let mut taken = 0;
                while let Some(group) = queue.take(limits(3, 100, 9)) {
                    taken += group.len();
                    assert!(queue.settle(group.iter().map(|_| Ok(Revision(1))).collect(), || ()));
                }
                taken
            });
            for _ in 0..1000 {
                let mut outcomes: Vec<_> =
                    ["a", "b", "c", "d"].map(|key| queue.push(command(key)).unwrap()).into();
                // The last one is taken after all of the others: then it sleeps again.
                let last = outcomes.pop().unwrap().blocking_recv().unwrap();
                assert_eq!(last, Ok(Revision(1)));
            }
            queue.close();
            assert_eq!(committer.join().unwrap(), 4000);
        });
    }

    #[test]
    fn closing_lets_what_waits_be_made_and_takes_no_more() {
        let queue = Queue::new();
        let _outcome = queue.push(command("a")).unwrap();
        queue.close();
        assert_eq!(queue.push(command("b")).unwrap_err(), CommitError::Closed);
        assert_eq!(keys(queue.take(limits(9, 100, 9))), ["a"]);
        assert!(queue.settle(vec![Ok(Revision(1))], || ()));
        assert!(queue.take(limits(9, 100, 9)).is_none());
    }

    #[test]
    fn a_full_queue_refuses_instead_of_growing() {
        let queue = Queue::new();
        let _outcomes: Vec<_> = (0..MAX_QUEUED).map(|_| queue.push(command("a")).unwrap()).collect();
        assert_eq!(queue.push(command("b")).unwrap_err(), CommitError::Busy);
    }
}
