//! The one task that decides, and the one that applies what was committed.
//!
//! ```text
//!  submit ─(bounded)─▶ desk: decide on the head copy ─▶ Store::commit ─▶ durable
//!                        ▲  waits for the revision                          │
//!                        │                                           Store::follow
//!            answer ◀────┴── applied ◀── feeds ◀── apply to the committed copy
//! ```
//!
//! The head copy is the committed one plus what has been decided and not yet applied, so that the next
//! command is decided without waiting for the disk. Nothing of it is ever shown: reads see the committed
//! copy, and whatever was decided on the head is answered after the revision that it rests on was applied.

mod confirm;
mod desk;
mod follower;
mod settling;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug};
use std::future::ready;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use loden_proto::model::Network;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use crate::feed::{Feeds, Incarnation, Point, Publication, Scene};
use crate::knocks::Knocks;
use crate::ledger::{
    Applied, Command, Corrupt, Defaults, Lease, Ledger, Member, Refusal, Reservation, Streaming, Token, Want,
};
use crate::store::{Batch, Cause, Health, Loaded, Revision, Store, StoreError};

use desk::{Desk, Job};

pub use settling::Settling;

/// How long what others have committed may take to be heard of.
const CATCHING_UP: Duration = Duration::from_secs(5);
/// Most commands that wait to be decided.
const QUEUED: usize = 8192;

/// What time of day it is.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What the clerk needs beside a store.
#[derive(Clone)]
pub struct ClerkOptions {
    /// Configured values for decisions.
    pub defaults: Defaults,
    /// Which instance of a node streams.
    pub streaming: Arc<dyn Streaming + Send + Sync>,
    /// Whether new slots must wait for the agents.
    pub settling: Settling,
    /// Who tells of a life that was lost.
    pub knocks: Knocks,
    /// The time of day.
    pub now: WallClock,
}

impl Debug for ClerkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClerkOptions").field("defaults", &self.defaults).finish_non_exhaustive()
    }
}

/// What a command came to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most answers are leases, and each is moved a few times only")]
pub enum Answer {
    /// A network.
    Network(Network),
    /// A lease and its network.
    Lease(Lease, Network),
    /// A reservation.
    Reservation(Reservation),
    /// A token.
    Token(Token),
    /// A node, as it is let in.
    Member(Member),
    /// It is done.
    Nothing,
}

/// Why a command came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// A rule forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store does not take writes, or did not say what became of this one.
    #[error(transparent)]
    Store(#[from] StoreFailure),
    /// Too many commands are waiting.
    #[error("{QUEUED} commands are already waiting to be decided")]
    Busy,
    /// Others changed the same records each time.
    #[error("the records that the command depends on changed {0} times while it was committed")]
    Aborted(u32),
}

/// Why a command could not be made durable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the store does not take writes: {0}")]
pub struct StoreFailure(pub Cause);

impl StoreFailure {
    fn new(cause: impl ToString) -> Self {
        Self(cause.to_string().into())
    }
}

/// Why the clerk did not start, or no longer follows the store.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClerkError {
    /// The store cannot be read.
    #[error("cannot read the store: {0}")]
    Store(#[from] StoreError),
    /// A record cannot be read, or contradicts another.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
    /// A defect of ours ended one of its tasks.
    #[error("a task of the ledger ended: {0}")]
    Died(String),
}

/// Submits commands and reads the committed ledger; cheap to clone.
#[derive(Clone)]
pub struct ClerkHandle {
    jobs: mpsc::Sender<Job>,
    committed: Arc<RwLock<Ledger>>,
    applied: watch::Receiver<Revision>,
    health: watch::Receiver<Health>,
    newest: Newest,
}

/// Asks the store how far it is.
type Newest = Arc<dyn Fn() -> BoxFuture<'static, Result<Revision, Cause>> + Send + Sync>;

impl Debug for ClerkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClerkHandle").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// The clerk's tasks. Dropping it stops them.
#[derive(Debug)]
pub struct Clerk {
    desk: JoinHandle<()>,
    follower: JoinHandle<ClerkError>,
}

impl Clerk {
    /// Loads the ledger, lets the feeds begin with it, and starts to decide and follow.
    ///
    /// # Errors
    /// When the store cannot be read, naming the record if it is one.
    pub async fn start<S: Store>(
        store: Arc<S>,
        feeds: Feeds,
        options: ClerkOptions,
    ) -> Result<(Self, ClerkHandle), ClerkError> {
        let loaded = store.load().await?;
        let ledger = Ledger::load(&loaded)?;
        let revision = loaded.revision;
        begin(&feeds, &loaded, &ledger)?;
        drop(loaded);

        let health = store.health();
        let (jobs, queue) = mpsc::channel(QUEUED);
        let (reached, applied) = watch::channel(revision);
        let committed = Arc::new(RwLock::new(ledger.clone()));
        let handle = ClerkHandle {
            jobs,
            committed: Arc::clone(&committed),
            applied: applied.clone(),
            health: health.clone(),
            newest: newest(&store),
        };
        let follower = follower::run(Arc::clone(&store), Arc::clone(&committed), feeds, reached);
        let desk = Desk::new(store, options, ledger, committed, applied, health);
        let tasks = Self { desk: tokio::spawn(desk.run(queue)), follower: tokio::spawn(follower) };
        Ok((tasks, handle))
    }

    /// Waits until the ledger no longer follows the store, or nothing is decided any more: both end a server.
    pub async fn ended(&mut self) -> ClerkError {
        let died = |error: JoinError| ClerkError::Died(error.to_string());
        tokio::select! {
            ended = &mut self.follower => ended.unwrap_or_else(died),
            // Otherwise it ends only after the follower, which says why.
            Err(error) = &mut self.desk => died(error),
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.desk.abort();
        self.follower.abort();
    }
}

impl ClerkHandle {
    /// Has a command decided, committed and applied.
    ///
    /// # Errors
    /// When it is refused, when the store does not take it, or when too much is waiting.
    pub async fn submit(&self, command: Command) -> Result<Answer, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job::new(command, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Busy,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Looks at the committed ledger. Never waits for the disk; keep it short.
    pub fn read<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        look(&self.committed.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest applied revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until everything is applied that was committed before this was called, here or by another process.
    ///
    /// # Errors
    /// The store cannot say how far it is, or is not followed that far within a few seconds.
    pub async fn caught_up(&self) -> Result<(), StoreFailure> {
        let newest = (self.newest)().await.map_err(StoreFailure)?;
        let mut applied = self.applied.clone();
        match timeout(CATCHING_UP, applied.wait_for(|applied| *applied >= newest)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreFailure::new(format!("revision {newest} has not been heard of yet"))),
        }
    }

    /// The newest applied revision, whenever there is a newer one.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.applied.clone()
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn store_health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

fn newest<S: Store>(store: &Arc<S>) -> Newest {
    let store = Arc::downgrade(store);
    Arc::new(move || match store.upgrade() {
        Some(store) => store.newest().boxed(),
        None => ready(Err("the store is closed".into())).boxed(),
    })
}

fn closed() -> SubmitError {
    StoreFailure::new("the server is shutting down").into()
}

/// What a command answers, from the ledger as it is after it; `None` if that is gone again.
fn read(ledger: &Ledger, want: &Want) -> Option<Answer> {
    Some(match want {
        Want::Network(id) => Answer::Network(ledger.network(id)?.clone()),
        Want::Lease(name) => Answer::Lease(ledger.lease(name)?, ledger.network(&name.network)?.clone()),
        Want::Reservation(name) => Answer::Reservation(ledger.reservation(name)?),
        Want::Token(id) => Answer::Token(ledger.token(*id)?),
        Want::Member(node) => Answer::Member(ledger.member(node)?),
        Want::Nothing => Answer::Nothing,
    })
}

/// Lets the feeds begin with the ledger and the history that led to it.
fn begin(feeds: &Feeds, loaded: &Loaded, ledger: &Ledger) -> Result<(), Corrupt> {
    let oldest = loaded.history.first().map_or(loaded.revision.0, |batch| batch.revision.0.saturating_sub(1));
    let before = Point { revision: oldest, hash: loaded.hash_before_history.0 };
    let history = loaded
        .history
        .iter()
        .map(|batch| Ok(publication(batch, Ledger::peer_changes(batch)?)))
        .collect::<Result<Vec<_>, Corrupt>>()?;
    feeds.begin(before, &history, &scene(ledger));
    Ok(())
}

fn publication(batch: &Batch, applied: Applied) -> Publication {
    Publication {
        point: Point { revision: batch.revision.0, hash: batch.hash.0 },
        peers: applied.peers,
        networks: applied.networks,
        cluster: applied.cluster,
    }
}

/// What watchers may see of a ledger.
fn scene(ledger: &Ledger) -> Scene {
    let cluster = ledger.cluster();
    let incarnation = cluster.map(|cluster| Incarnation {
        id: cluster.incarnation,
        predecessors: cluster.predecessors.into_iter().collect(),
        adopting: cluster.adopt_until.is_some(),
    });
    let peers = |network: &Network| ledger.peers(&network.id).collect();
    Scene {
        incarnation: incarnation.unwrap_or_default(),
        networks: ledger.networks().map(|network| (network.clone(), peers(network))).collect(),
    }
}
