//! Lives of the store: noticing that it was lost or rolled back, and collecting what the agents hold.
//!
//! ```text
//!  start: store against marker ─┐
//!                               ├─ lost ─▶ BeginIncarnation ─▶ adopting (10 min) ─▶ EndAdoption
//!  open: client's resume token ─┤                │
//!  the operator: recover ───────┤                │
//!  acquire: claim after knocks ─┘                │
//!                                                └─▶ marker beside the key of tokens
//! ```
//!
//! Adoption does not end while there is no network, and every network or pool that is added meanwhile starts its
//! time anew: whoever creates the lost networks again may come late.
//!
//! Key and marker live away from the store, so that they survive its loss. While adopting, leases are
//! given only to nodes that claim them and snapshots say that the set is not whole.
//!
//! Settling is shorter and follows every start: until the nodes that hold leases are back (15 s at most), and
//! those that we may not know have had the time to come, nobody new gets a slot. The first start with a new CA
//! settles too, for the nodes of a life that was lost with its CA, see [`crate::knocks`].

mod marker;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use loden_proto::model::LeaseName;
use loden_proto::names::NetworkId;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::clerk::{ClerkHandle, Settling, SubmitError, WallClock};
use crate::feed::{Feeds, TokenVerdict};
use crate::knocks::Knocks;
use crate::ledger::{Cluster, Command, LeaseState, Ledger};
use crate::replicas::{Others, any_settled, any_settles};
use crate::watch::{Streams, WatchBody, WatchOpen, WatchRefusal};

pub use marker::{Marker, MarkerError};

/// How often a due time of day is looked at: the clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// Agents back off for five seconds at most. Until that has passed a store that was rolled back looks like any
/// other, for whoever would show that it was is not back: perhaps nobody whom it knows is awaited at all.
const RETURN: Duration = Duration::from_secs(8);
/// How often a command is tried again that the store did not take.
const RETRY: Duration = Duration::from_secs(1);

/// How a store that was just opened stands to the last one that was served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opened {
    /// It is that one.
    Known,
    /// There never was one.
    First,
    /// It is not that one, or has forgotten it: agents may hold leases that it does not know.
    Lost {
        /// The incarnation that was served.
        predecessor: u128,
    },
}

/// Compares a store with the marker of the last incarnation that was served. The marker is written before the
/// first lease is given. Where it is missing, a store that is `orphaned`, for it has given leases and the key of tokens
/// was made since, is taken for an old copy: no agent can show that it is. With the key of before they can: a control
/// plane that is new here, and has taken that key from the store, believes the store.
#[must_use]
pub fn opened(cluster: Option<&Cluster>, orphaned: bool, marker: Option<u128>) -> Opened {
    match (cluster, marker) {
        (None, None) => Opened::First,
        (Some(cluster), None) if orphaned => Opened::Lost { predecessor: cluster.incarnation },
        (Some(_), None) => Opened::Known,
        // The server may have stopped between the first commit of an incarnation and its marker.
        (Some(cluster), Some(marker))
            if cluster.incarnation == marker || cluster.predecessors.contains(&marker) =>
        {
            Opened::Known
        }
        (_, Some(predecessor)) => Opened::Lost { predecessor },
    }
}

/// What to submit for a store that was just opened.
#[must_use]
pub fn beginning(opened: Opened, id: u128, now: SystemTime, adopt: Duration) -> Option<Command> {
    match opened {
        Opened::Known => None,
        Opened::First => Some(Command::BeginIncarnation { id, predecessor: None, adopt_until: None }),
        Opened::Lost { predecessor } => Some(Command::BeginIncarnation {
            id,
            predecessor: Some(predecessor),
            adopt_until: Some(now + adopt),
        }),
    }
}

/// Has the next start begin a new life and adopt, whatever it finds: what is noted is a life that no store has
/// had.
///
/// # Errors
/// When the marker cannot be written.
pub fn recover(marker: &Path) -> Result<(), MarkerError> {
    Marker::new(marker).write(rand::random())
}

/// How adoption and settling go.
#[derive(Clone, Debug)]
pub struct AdoptionOptions {
    /// For how long leases are collected after the store was lost.
    pub adopt: Duration,
    /// For how long new slots wait after a start.
    pub settle: Duration,
    /// Where the marker is; beside the key of tokens, not in the store's directory.
    pub marker: PathBuf,
    /// Whether the key of tokens was taken from the store by this start: then it is no newer than the store, though it
    /// may still be noted as new.
    pub key_came_with_store: bool,
    /// Who tells of a life that was lost with its CA.
    pub knocks: Knocks,
    /// The other control planes.
    pub others: Others,
}

/// Why a store's life did not begin.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// The marker cannot be read or written.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The store did not take the new incarnation.
    #[error("a new incarnation of the store cannot begin: {0}")]
    Submit(#[from] SubmitError),
}

/// Why a watch does not begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The network does not exist.
    #[error(transparent)]
    Refused(#[from] WatchRefusal),
    /// The token shows that the store was lost, and no new incarnation could begin: nobody is given a set
    /// of peers that may lack some.
    #[error(transparent)]
    Adoption(#[from] AdoptionError),
}

/// Watches over the store's life; cheap to clone.
#[derive(Clone, Debug)]
pub struct Adoption(Arc<Inner>);

struct Inner {
    clerk: ClerkHandle,
    feeds: Feeds,
    streams: Streams,
    options: AdoptionOptions,
    now: WallClock,
    /// Held while an incarnation begins: thousands of agents notice a loss at once.
    beginning: Mutex<()>,
    began: Notify,
}

impl Adoption {
    /// Begins the store's first life, or a new one if this store is not the one that was served last, and
    /// starts settling.
    ///
    /// # Errors
    /// When the marker cannot be read or written, or the store takes no writes though it must.
    pub async fn start(
        clerk: ClerkHandle,
        feeds: Feeds,
        streams: Streams,
        settling: &Settling,
        options: AdoptionOptions,
        now: WallClock,
    ) -> Result<Self, AdoptionError> {
        let marker = Marker::new(&options.marker);
        let served = marker.read()?;
        let (cluster, given) = clerk.read(|ledger| (ledger.cluster(), ledger.has_given()));
        let orphaned = given && options.knocks.is_counting() && !options.key_came_with_store;
        let opened = opened(cluster.as_ref(), orphaned, served);
        if let Opened::Lost { predecessor } = opened {
            tracing::warn!(
                served = %format_args!("{predecessor:032x}"),
                "the store is not the one that was served last; collecting leases from the agents"
            );
        }
        let begin = beginning(opened, rand::random(), now(), options.adopt);
        let settle = options.settle;
        let inner =
            Inner { clerk, feeds, streams, options, now, beginning: Mutex::default(), began: Notify::new() };
        let adoption = Self(Arc::new(inner));
        match begin {
            Some(command) => adoption.begin(command).await?,
            None => adoption.mark()?,
        }
        if served.is_some() || adoption.awaited() || adoption.0.options.knocks.is_counting() {
            settling.begin(Instant::now() + settle);
        }
        Ok(adoption)
    }

    /// Looks at the token that a client brings. If it shows that the store was lost, a new incarnation begins:
    /// whatever else is asked of the client comes later, for this store may not know its lease.
    ///
    /// # Errors
    /// When the new incarnation cannot begin.
    pub async fn heed(&self, network: &NetworkId, token: &Bytes) -> Result<(), AdoptionError> {
        if self.0.feeds.judge(network, token).lost().is_none() {
            return Ok(());
        }
        // Another control plane may have told the client of what this one has not heard of yet.
        self.0.clerk.caught_up().await.map_err(SubmitError::from)?;
        let _one_at_a_time = self.0.beginning.lock().await;
        // Somebody else may have noticed before.
        let verdict = self.0.feeds.judge(network, token);
        match verdict.lost() {
            Some(predecessor) => self.begin_again(verdict, predecessor, network).await,
            None => Ok(()),
        }
    }

    /// Looks at what a node claims that was refused because there are signs of a former life: a subnet that this
    /// life cannot have given it proves that there was one, and a new incarnation begins.
    ///
    /// # Errors
    /// When the new incarnation cannot begin.
    pub async fn heed_claim(&self, lease: &LeaseName) -> Result<(), AdoptionError> {
        let _one_at_a_time = self.0.beginning.lock().await;
        // Somebody else may have come before.
        if self.0.clerk.read(Ledger::is_adopting) {
            return Ok(());
        }
        tracing::warn!(%lease, "a node holds a subnet of a life that was lost; collecting leases from the agents");
        let adopt_until = Some((self.0.now)() + self.0.options.adopt);
        self.begin(Command::BeginIncarnation { id: rand::random(), predecessor: None, adopt_until }).await
    }

    /// Begins a watch. If its token shows that the store was lost, a new incarnation begins first, and the
    /// watch begins with a set that says that it is not whole.
    ///
    /// # Errors
    /// When the network does not exist, or the new incarnation cannot begin.
    pub async fn watch(&self, open: WatchOpen) -> Result<WatchBody, OpenError> {
        self.heed(&open.network, &open.token).await?;
        Ok(self.0.feeds.watch(&self.0.streams, open)?)
    }

    /// Ends settling and adoption when it is time. Runs as long as the server.
    pub async fn run(self, settling: Settling) {
        tokio::join!(self.end_settling(&settling), self.end_adoptions(), self.end_knocks(&settling));
    }

    async fn begin_again(
        &self,
        verdict: TokenVerdict,
        predecessor: u128,
        network: &NetworkId,
    ) -> Result<(), AdoptionError> {
        tracing::warn!(
            ?verdict,
            %network,
            "the store was lost or rolled back; collecting leases from the agents"
        );
        let lost = Opened::Lost { predecessor };
        match beginning(lost, rand::random(), (self.0.now)(), self.0.options.adopt) {
            Some(command) => self.begin(command).await,
            None => Ok(()),
        }
    }

    async fn begin(&self, command: Command) -> Result<(), AdoptionError> {
        self.0.clerk.submit(command).await?;
        self.0.began.notify_one();
        self.mark()
    }

    /// Notes which incarnation is served. What is noted already is not written: a server also starts on a
    /// full disk.
    fn mark(&self) -> Result<(), AdoptionError> {
        let marker = Marker::new(&self.0.options.marker);
        let served = self.0.clerk.read(|ledger| ledger.cluster()).map(|cluster| cluster.incarnation);
        match served {
            Some(served) if marker.read()? != Some(served) => Ok(marker.write(served)?),
            _ => Ok(()),
        }
    }

    /// Whether a node with an active lease does not stream.
    fn awaited(&self) -> bool {
        self.0.clerk.read(|ledger| {
            let mut active =
                ledger.leases(None, None).filter(|lease| matches!(lease.state, LeaseState::Active));
            active.any(|lease| !self.0.streams.contains(&lease.name))
        })
    }

    async fn end_settling(&self, settling: &Settling) {
        /// Between two looks at all leases.
        const PAUSE: Duration = Duration::from_millis(100);
        let mut changes = self.0.streams.changes();
        let mut others = self.0.options.others.clone();
        if let Some(remaining) = settling.remaining(Instant::now()) {
            tokio::select! {
                () = tokio::time::sleep(remaining.min(RETURN)) => {}
                // A store that others serve is no old copy; but that nobody knows another CA is heard in time only.
                Ok(_) = others.wait_for(|others| any_settled(others)), if !self.0.options.knocks.is_counting() => {
                    return settling.end();
                }
            }
        }
        while settling.remaining(Instant::now()).is_some() && self.awaited() {
            let _either = tokio::time::timeout(LOOK, changes.changed()).await;
            tokio::time::sleep(PAUSE).await;
        }
        settling.end();
    }

    /// Once this life has given a lease, there is nothing that knocks could tell: unless it, or another control plane,
    /// is so young that they are only coming, or they have come and nobody heeds them yet.
    async fn end_knocks(&self, settling: &Settling) {
        let knocks = &self.0.options.knocks;
        let mut revisions = self.0.clerk.revisions();
        while knocks.is_counting() {
            let (given, heeded) = self.0.clerk.read(|ledger| (ledger.has_given(), ledger.is_adopting()));
            let now = Instant::now();
            let settles = settling.remaining(now).is_some() || any_settles(&self.0.options.others.borrow());
            let silent = !settles && knocks.heard(now).is_none();
            if given && (heeded || silent) {
                knocks.end();
            } else if given {
                tokio::time::sleep(LOOK).await;
            } else if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    async fn end_adoptions(&self) {
        loop {
            let (cluster, nothing_to_lease) =
                self.0.clerk.read(|ledger| (ledger.cluster(), ledger.networks().next().is_none()));
            let Some(until) = cluster.and_then(|cluster| cluster.adopt_until) else {
                self.0.began.notified().await;
                continue;
            };
            match until.duration_since((self.0.now)()) {
                Ok(remaining) if !remaining.is_zero() => tokio::time::sleep(remaining.min(LOOK)).await,
                // The ledger prolongs it when a network is created.
                _ if nothing_to_lease => tokio::time::sleep(LOOK).await,
                _ => self.end_adoption().await,
            }
        }
    }

    async fn end_adoption(&self) {
        match self.0.clerk.submit(Command::EndAdoption).await {
            Ok(_) => tracing::info!("adoption has ended: the set of leases is whole again"),
            Err(error) => {
                tracing::warn!(%error, "adoption cannot end yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adoption").field("options", &self.options).finish_non_exhaustive()
    }
}
