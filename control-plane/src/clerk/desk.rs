//! Decides command after command on the head copy, and answers each when its revision was applied.
//!
//! ```text
//!  job ─▶ decide ─┬─ changes ──▶ head.apply ─▶ commit ─┬─ done ─────▶ waits for its revision ─▶ answer
//!                 │                                    └─ conflict ─▶ the head is stale
//!                 └─ refused, or nothing to do ──▶ waits for what it rests on ─▶ answer
//!                                   where others write as well: once the store says that this is not old
//!
//!  stale: let what is in flight end, follow that far, copy the committed ledger, decide again in order
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use super::confirm::Confirm;
use super::{Answer, ClerkOptions, StoreFailure, SubmitError, read};
use crate::ledger::{Command, Context, Decision, Ledger, Want};
use crate::store::{Batch, Cause, CommitError, Health, Revision, RollingHash, Store};

/// Most commits in flight.
const IN_FLIGHT: usize = 1024;
/// How often a command is decided again after a conflict.
const ATTEMPTS: u32 = 16;

type Reply = Result<Answer, SubmitError>;

/// A command and whom to answer.
#[derive(Debug)]
pub(super) struct Job {
    command: Command,
    reply: oneshot::Sender<Reply>,
    conflicts: u32,
    /// A step of it has been committed.
    begun: bool,
    /// Its place in the order of first decisions.
    place: u64,
    /// Where others write as well: as far as the store was when this had come.
    since: Option<Revision>,
}

impl Job {
    pub(super) const fn new(command: Command, reply: oneshot::Sender<Reply>) -> Self {
        Self { command, reply, conflicts: 0, begun: false, place: 0, since: None }
    }

    fn answer(self, reply: Reply) {
        // Whoever asked may have gone; the command counts all the same.
        let _gone = self.reply.send(reply);
    }
}

/// A commit that has been asked for.
struct Attempt {
    job: Job,
    /// The revision that the head copy believes in.
    expected: Revision,
    reply: Option<Answer>,
    want: Want,
    more: bool,
}

/// What is answered once a commit was applied.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are answers")]
enum Due {
    Answer(Answer),
    /// It was committed at another revision than expected, so what the head said of it may be wrong.
    Read(Want),
}

pub(super) struct Desk<S> {
    store: Arc<S>,
    options: ClerkOptions,
    head: Ledger,
    /// The head copy no longer is what the store will be.
    stale: bool,
    /// The highest revision that must be followed before the head can be copied anew.
    seen: Revision,
    committed: Arc<RwLock<Ledger>>,
    applied: watch::Receiver<Revision>,
    health: watch::Receiver<Health>,
    in_flight: FuturesUnordered<BoxFuture<'static, (Attempt, Result<Revision, CommitError>)>>,
    /// The revisions that the head copy believes they get.
    expected: BTreeSet<Revision>,
    /// Committed, by revision.
    due: BTreeMap<Revision, Vec<(Job, Due)>>,
    /// Nothing to commit, but decided on what was not applied yet; in order of revision.
    resting: VecDeque<(Revision, Job, Reply)>,
    /// The same, on what may be old.
    unconfirmed: Confirm<(Revision, Job, Reply)>,
    again: VecDeque<Job>,
    places: u64,
}

impl<S: Store> Desk<S> {
    pub(super) fn new(
        store: Arc<S>,
        options: ClerkOptions,
        head: Ledger,
        committed: Arc<RwLock<Ledger>>,
        applied: watch::Receiver<Revision>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self {
            store,
            options,
            stale: false,
            seen: head.revision(),
            head,
            committed,
            applied,
            health,
            in_flight: FuturesUnordered::new(),
            expected: BTreeSet::new(),
            due: BTreeMap::new(),
            resting: VecDeque::new(),
            unconfirmed: Confirm::default(),
            again: VecDeque::new(),
            places: 0,
        }
    }

    /// Works until nobody can submit any more and everything is answered, or the follower is gone.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut open = true;
        loop {
            self.answer_applied();
            self.renew_head();
            self.decide_again();
            self.unconfirmed.ask(|| self.store.newest().boxed());
            if !open && self.is_idle() {
                return;
            }
            let room = self.has_room();
            tokio::select! {
                biased;
                Some((attempt, outcome)) = self.in_flight.next() => self.settle(attempt, outcome),
                (replies, newest) = self.unconfirmed.answered() => self.confirm(replies, newest),
                followed = self.applied.changed() => if followed.is_err() {
                    return;
                },
                job = jobs.recv(), if open && room => match job {
                    Some(job) => self.decide_new(job),
                    None => open = false,
                },
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && self.due.is_empty()
            && self.resting.is_empty()
            && self.unconfirmed.is_empty()
            && self.again.is_empty()
    }

    fn has_room(&self) -> bool {
        !self.stale && self.again.is_empty() && self.in_flight.len() < IN_FLIGHT
    }

    fn decide_new(&mut self, mut job: Job) {
        job.place = self.places;
        self.places += 1;
        self.decide(job);
    }

    fn decide_again(&mut self) {
        while !self.stale
            && self.in_flight.len() < IN_FLIGHT
            && let Some(job) = self.again.pop_front()
        {
            self.decide(job);
        }
    }

    fn decide(&mut self, job: Job) {
        let now = Instant::now();
        let context = Context {
            now: (self.options.now)(),
            defaults: &self.options.defaults,
            settling: self.options.settling.remaining(now),
            knocked: self.options.knocks.heard(now),
            streaming: &*self.options.streaming,
        };
        match self.head.decide(&job.command, &context) {
            Err(refusal) if job.begun && job.command.was_finished(&refusal) => {
                let reply = read(&self.head, &Want::Nothing).ok_or_else(|| gone(&Want::Nothing));
                self.rest(job, reply);
            }
            Err(refusal) => self.rest(job, Err(refusal.into())),
            Ok(Decision { changes, want, .. }) if changes.is_empty() => {
                let reply = read(&self.head, &want).ok_or_else(|| gone(&want));
                self.rest(job, reply);
            }
            Ok(decision) => self.commit(job, decision),
        }
    }

    fn commit(&mut self, job: Job, decision: Decision) {
        if let Health::Away { cause } | Health::Poisoned { cause } | Health::Recoverable { cause } =
            &*self.health.borrow()
        {
            return job.answer(Err(StoreFailure(cause.clone()).into()));
        }
        let Decision { changes, guards, more, want } = decision;
        for reservation in job.command.drops(&changes) {
            warn!(%reservation, "dropped: another node holds its subnet since before the store was lost");
        }
        let expected = self.head.revision().next();
        let batch = Batch {
            revision: expected,
            changes: changes.clone().into(),
            // Only watchers are told of hashes, and they never see the head copy.
            hash: RollingHash::default(),
        };
        if let Err(corrupt) = self.head.apply(&batch) {
            self.stale = true;
            return job.answer(Err(StoreFailure::new(corrupt).into()));
        }
        let reply = read(&self.head, &want);
        let attempt = Attempt { job, expected, reply, want, more };
        self.expected.insert(expected);
        let commit = self.store.commit(changes, guards);
        self.in_flight.push(Box::pin(async move { (attempt, commit.await) }));
    }

    fn settle(&mut self, attempt: Attempt, outcome: Result<Revision, CommitError>) {
        let Attempt { mut job, expected, reply, want, more } = attempt;
        self.expected.remove(&expected);
        let failure: SubmitError = match outcome {
            Ok(revision) => {
                self.seen = self.seen.max(revision);
                self.stale |= revision != expected;
                if more {
                    job.begun = true;
                    self.again.push_back(job);
                    return;
                }
                let due = reply.filter(|_| revision == expected).map_or(Due::Read(want), Due::Answer);
                self.due.entry(revision).or_default().push((job, due));
                return;
            }
            Err(CommitError::Conflict(revision)) => {
                self.seen = self.seen.max(revision);
                self.stale = true;
                job.conflicts += 1;
                if job.conflicts <= ATTEMPTS {
                    self.again.push_back(job);
                    return;
                }
                SubmitError::Aborted(job.conflicts)
            }
            Err(CommitError::Busy) => SubmitError::Busy,
            Err(CommitError::Away(cause) | CommitError::Poisoned(cause)) => StoreFailure(cause).into(),
            Err(error @ (CommitError::Unknown | CommitError::Closed | CommitError::Invalid(_))) => {
                StoreFailure::new(error).into()
            }
        };
        self.stale = true;
        job.answer(Err(failure));
    }

    /// Keeps a reply that rests on the head copy until that is what was applied. Where others write as well, it must
    /// not be older than the wish: somebody may have been answered meanwhile, by whom this one has told.
    fn rest(&mut self, job: Job, reply: Reply) {
        let revision = self.head.revision();
        if self.store.is_shared() && job.since.is_none_or(|since| since > revision) {
            self.unconfirmed.push((revision, job, reply));
        } else {
            self.rest_on(revision, job, reply);
        }
    }

    fn rest_on(&mut self, revision: Revision, job: Job, reply: Reply) {
        if revision <= self.reached() {
            job.answer(reply);
        } else {
            let place = self.resting.partition_point(|(other, ..)| *other <= revision);
            self.resting.insert(place, (revision, job, reply));
        }
    }

    /// Gives replies that rest on what is not old, and decides the others again.
    fn confirm(&mut self, replies: Vec<(Revision, Job, Reply)>, newest: Result<Revision, Cause>) {
        for (revision, mut job, reply) in replies {
            match &newest {
                Err(cause) => job.answer(Err(StoreFailure(cause.clone()).into())),
                Ok(newest) => {
                    job.since = Some(*newest);
                    if *newest <= revision {
                        self.rest_on(revision, job, reply);
                    } else {
                        self.seen = self.seen.max(*newest);
                        self.stale = true;
                        self.again.push_back(job);
                    }
                }
            }
        }
    }

    /// Up to where what was applied is what the head copy believes in.
    fn reached(&self) -> Revision {
        let applied = *self.applied.borrow();
        if self.stale {
            return Revision::default();
        }
        // Another one's commit may have come in the place of one that is under way.
        self.expected.first().map_or(applied, |first| applied.min(Revision(first.0.saturating_sub(1))))
    }

    fn answer_applied(&mut self) {
        let applied = *self.applied.borrow_and_update();
        while let Some(first) = self.due.first_entry().filter(|first| *first.key() <= applied) {
            for (job, due) in first.remove() {
                job.answer(match due {
                    Due::Answer(answer) => Ok(answer),
                    Due::Read(want) => read(&self.committed(), &want).ok_or_else(|| gone(&want)),
                });
            }
        }
        let reached = self.reached();
        let rested = self.resting.partition_point(|(revision, ..)| *revision <= reached);
        for (_, job, reply) in self.resting.drain(..rested) {
            job.answer(reply);
        }
    }

    /// Copies the committed ledger once everything that was in flight has ended and was followed.
    fn renew_head(&mut self) {
        let applied = *self.applied.borrow();
        if !self.stale && self.in_flight.is_empty() && applied > self.head.revision() {
            // Somebody else writes to the store.
            self.stale = !self.hear_others(applied);
        }
        if !self.stale || !self.in_flight.is_empty() || applied < self.seen {
            return;
        }
        self.answer_applied();
        let head = self.committed().clone();
        self.seen = head.revision();
        self.head = head;
        self.stale = false;
        let rested = self.resting.drain(..).chain(self.unconfirmed.drain()).map(|(_, job, _)| job);
        let mut again: Vec<_> = self.again.drain(..).chain(rested).collect();
        again.sort_by_key(|job| job.place);
        self.again = again.into();
    }

    /// Applies what others have committed to the head copy; false if it cannot be.
    fn hear_others(&mut self, applied: Revision) -> bool {
        let mut batches = pin!(self.store.follow(self.head.revision()));
        while self.head.revision() < applied {
            // What was applied can be had without waiting, unless the history has lost it.
            let Some(Some(Ok(batch))) = batches.next().now_or_never() else { return false };
            if self.head.apply(&batch).is_err() {
                return false;
            }
        }
        self.seen = self.seen.max(applied);
        true
    }

    fn committed(&self) -> RwLockReadGuard<'_, Ledger> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(want: &Want) -> SubmitError {
    StoreFailure::new(format!("{want:?} was changed by somebody else before it could be answered")).into()
}
