//! Clients that do what an agent does towards the server and nothing else: hold a lease, read their watch, report,
//! and come back. What they measure is the server and the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use loden_proto::names::NetworkId;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Answer;
use super::follower::Follower;
use super::frame::Kind;
use super::members::{self, Members};
use super::sightings::Sightings;

/// How long everybody may take to join, or to come back.
const JOIN: Duration = Duration::from_secs(900);
/// How often is looked whether everybody is there.
const LOOK: Duration = Duration::from_millis(20);

/// Followers with identities, not started.
pub(super) struct Prepared(Vec<Follower>, Arc<Board>);

/// Followers that follow.
pub(super) struct Followers {
    board: Arc<Board>,
    sightings: Arc<Sightings>,
    _tasks: JoinSet<()>,
}

/// Where all followers stand.
#[derive(Debug)]
pub(super) struct Board {
    /// How many know everybody else.
    whole: AtomicUsize,
    /// How many watches each has opened that said something.
    opened: Vec<AtomicU32>,
    /// What a watch said first, by kind, since the last mark.
    first: [AtomicUsize; 3],
    /// Connections and watches that did not begin or have ended, since the last mark.
    failed: AtomicUsize,
    /// Why one of them was, whichever came last.
    why: std::sync::Mutex<String>,
}

impl Board {
    fn new(count: u16) -> Arc<Self> {
        Arc::new(Self {
            whole: AtomicUsize::new(0),
            opened: (0..count).map(|_| AtomicU32::new(0)).collect(),
            first: Default::default(),
            failed: AtomicUsize::new(0),
            why: std::sync::Mutex::default(),
        })
    }

    /// A follower has come to know everybody, or no longer does.
    pub(super) fn whole(&self, is_whole: bool) {
        if is_whole {
            self.whole.fetch_add(1, Ordering::Relaxed);
        } else {
            self.whole.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A follower's new watch has said its first.
    pub(super) fn opened(&self, member: u16, first: Kind) {
        self.first[first as usize].fetch_add(1, Ordering::Relaxed);
        self.opened[usize::from(member)].fetch_add(1, Ordering::Relaxed);
    }

    /// A follower has to try again.
    pub(super) fn failed(&self, why: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.why.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = format!("{why:#}");
    }

    fn opened_by_each(&self) -> Vec<u32> {
        self.opened.iter().map(|opened| opened.load(Ordering::Relaxed)).collect()
    }

    /// Waits until something holds for so many.
    async fn wait(&self, all: usize, what: &str, count: impl Fn(&Self) -> usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let there = count(self);
            if there == all {
                return Ok(());
            }
            if begin.elapsed() > JOIN {
                let why = self.why.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                let failed = self.failed.load(Ordering::Relaxed);
                bail!(
                    "{there} of {all} have {what} within {JOIN:?}; {failed} attempts failed, the last: {why}"
                );
            }
            sleep(LOOK).await;
        }
    }
}

impl Followers {
    pub(super) fn prepare(
        members: &Members,
        network: &NetworkId,
        sightings: &Arc<Sightings>,
        count: u16,
    ) -> anyhow::Result<Prepared> {
        let board = Board::new(count);
        let one = |index| {
            let dialler = members.dialler(&members::name(index)?)?;
            let (board, sightings) = (Arc::clone(&board), Arc::clone(sightings));
            Ok(Follower::new((index, count), dialler, network.clone(), sightings, board))
        };
        Ok(Prepared((0..count).map(one).collect::<anyhow::Result<_>>()?, Arc::clone(&board)))
    }

    pub(super) fn sightings(&self) -> Arc<Sightings> {
        Arc::clone(&self.sightings)
    }

    /// An error when somebody has fallen out since the mark.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let failed = self.board.failed.load(Ordering::Relaxed);
        let why = self.board.why.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        ensure!(failed == 0, "{failed} watches were lost, the last: {why}");
        Ok(())
    }

    /// Remembers how many watches each has opened, and forgets what they have said first.
    pub(super) fn mark(&self) -> Vec<u32> {
        self.board.failed.store(0, Ordering::Relaxed);
        for first in &self.board.first {
            first.store(0, Ordering::Relaxed);
        }
        self.board.opened_by_each()
    }

    /// Waits until each has opened a watch since the mark that has said something; answers what they have said.
    pub(super) async fn rejoined(&self, marked: &[u32]) -> anyhow::Result<Answer> {
        let begin = Instant::now();
        let again = |board: &Board| {
            let now = board.opened_by_each();
            now.iter().zip(marked).filter(|(now, before)| now > before).count()
        };
        self.board.wait(marked.len(), "opened a watch again", again).await?;
        let first = |kind: Kind| self.board.first[kind as usize].load(Ordering::Relaxed);
        let answer = Answer::Rejoined {
            seconds: begin.elapsed().as_secs_f64(),
            heartbeats: first(Kind::Heartbeat),
            others: first(Kind::Snapshot) + first(Kind::Delta),
            attempts: self.board.failed.load(Ordering::Relaxed),
        };
        self.board.failed.store(0, Ordering::Relaxed);
        Ok(answer)
    }
}

impl Prepared {
    /// Everybody acquires and watches at once; done when everybody knows everybody else.
    pub(super) async fn start(self, sightings: &Arc<Sightings>) -> anyhow::Result<Followers> {
        let Self(followers, board) = self;
        let everybody = followers.len();
        let mut tasks = JoinSet::new();
        for follower in followers {
            tasks.spawn(follower.run());
        }
        let whole = |board: &Board| board.whole.load(Ordering::Relaxed);
        board.wait(everybody, "come to know everybody", whole).await.context("join")?;
        board.failed.store(0, Ordering::Relaxed);
        Ok(Followers { board, sightings: Arc::clone(sightings), _tasks: tasks })
    }
}
