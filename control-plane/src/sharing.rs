//! The CA of several control planes: taken from the store they share, given to it, and followed there.
//!
//! ```text
//!  start:    record ─▶ files; files ─▶ record of one of several first starts, or where those here are later
//!  rotate:   files ─▶ step ─▶ record, if nobody was first
//!  follow:   record ─▶ files ─▶ Pki, or files ─▶ record where somebody has put another CA here
//!  proof:    what one has seen, that the CA is no new one any more, is taken out of the record
//!  replace:  files ─▶ record, whatever that is, when an operator says so
//! ```
//!
//! Which of two is the later one is said by [`Precedence`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::clerk::{ClerkHandle, SubmitError};
use crate::config::Config;
use crate::identity::{Files, Pki, PkiError, Precedence, Seal, SealError, have_one_key, proven};
use crate::knocks::Knocks;
use crate::ledger::{Command, Corrupt, Ledger, Refusal};
use crate::store::{CommitError, Revision, Store, StoreError};

/// Between two looks at a store in which somebody else was first.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a CA is looked for that somebody else has shared, at most.
const LOOKS: u32 = 100;
/// When it is tried again to share what could not be shared, or to take up what could not be taken up.
const LATER: Duration = Duration::from_secs(15);

/// Shares the CA of this control plane; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sharing(Arc<Inner>);

/// The CA as it was opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) pki: Pki,
    /// Whether the key of tokens came from the store, to where there was none or another one.
    pub(crate) key_came_with_store: bool,
}

impl Opening {
    /// Opens the CA that is here, of a control plane that shares none.
    ///
    /// # Errors
    /// As [`Pki::open_or_create`].
    pub(crate) fn alone(config: &Config) -> Result<Self, PkiError> {
        Ok(Self { pki: open(config)?, key_came_with_store: false })
    }
}

#[derive(Debug)]
struct Inner {
    seal: Seal,
    /// Held by whoever changes what is here and shares it: nobody shares half of that meanwhile.
    changing: Mutex<()>,
}

/// The CA cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// It cannot be sealed or unsealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The files here.
    #[error("state-dir: {0}")]
    Pki(#[from] PkiError),
    /// The one here and the one that is shared have nothing to do with each other.
    #[error(
        "state-dir: {} has the CA of another cluster, or of another life of this one, than the store: move it away to \
         take up the one in the store, or have this one take its place: loden-control-plane store share-ca",
        .0.display()
    )]
    AnotherLife(PathBuf),
    /// There is none here.
    #[error("state-dir: {} has no CA that could be shared", .0.display())]
    Absent(PathBuf),
    /// The record cannot be read.
    #[error("store: {0}")]
    Corrupt(#[from] Corrupt),
    /// The store cannot be read.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The store does not take it.
    #[error("store: the CA cannot be shared: {0}")]
    Commit(#[from] CommitError),
    /// The ledger does not take it.
    #[error("the CA cannot be shared: {0}")]
    Submit(#[from] SubmitError),
}

impl Sharing {
    /// With the seal in the configured file.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, SealError> {
        let path = config.store.ca_seal_file.as_deref();
        let seal = path.map(|path| Seal::read(path, &config.cluster)).transpose()?;
        Ok(seal.map(|seal| Self(Arc::new(Inner { seal, changing: Mutex::default() }))))
    }

    /// Opens the CA that is in the store; or shares the one that is here, or made here, if there is none, or an older
    /// copy of it.
    ///
    /// # Errors
    /// Names what cannot be read, written or unsealed, and what only an operator can decide.
    pub(crate) async fn open<S: Store>(&self, store: &S, config: &Config) -> Result<Opening, SharingError> {
        let directory = config.pki_dir();
        for _ in 0..LOOKS {
            let record = Ledger::shared_authority_of(&store.load().await?)?;
            if let Some((sealed, _)) = &record {
                let shared = self.0.seal.open(sealed)?;
                let here = Pki::found(&directory)?;
                match Precedence::between(&shared, &here) {
                    Precedence::Shared => {
                        Pki::put_shared(&directory, &shared)?;
                        let key_came_with_store = !have_one_key(&shared, &here);
                        return Ok(Opening { pki: open(config)?, key_came_with_store });
                    }
                    Precedence::Here => {
                        let directory = directory.display();
                        warn!(%directory, "the CA in the store is an older one than that here, which takes its place");
                    }
                    Precedence::Neither => return Err(SharingError::AnotherLife(directory)),
                }
            }
            let pki = open(config)?;
            pki.note_life(config.certificate_validity)?;
            match self.put(store, &pki, record.map(|(_, revision)| revision)).await {
                Ok(()) => {
                    info!("the cluster's CA is shared from here");
                    return Ok(Opening { pki, key_came_with_store: false });
                }
                Err(SharingError::Commit(CommitError::Conflict(_))) => sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
        Err(CommitError::Unknown.into())
    }

    /// Puts the CA that is here in the place of the one in the store, whichever that is and whatever it was sealed with.
    ///
    /// # Errors
    /// There is none here, or it cannot be read or written.
    pub(crate) async fn replace<S: Store>(&self, store: &S, config: &Config) -> Result<(), SharingError> {
        let directory = config.pki_dir();
        if Pki::found(&directory)?.is_empty() {
            return Err(SharingError::Absent(directory));
        }
        let record = Ledger::shared_authority_of(&store.load().await?)?;
        // What cannot be unsealed has no say.
        let replaced = record.as_ref().and_then(|(sealed, _)| self.0.seal.open(sealed).ok());
        let pki = open(config)?;
        Pki::put_first(&directory, &replaced.unwrap_or_default())?;
        self.put(store, &pki, record.map(|(_, revision)| revision)).await
    }

    /// Puts a CA into a store that no clerk has yet, instead of the one of a revision.
    async fn put<S: Store>(
        &self,
        store: &S,
        pki: &Pki,
        instead: Option<Revision>,
    ) -> Result<(), SharingError> {
        let (changes, guards) = Ledger::sharing_authority(self.0.seal.close(&pki.shared()?), instead);
        store.commit(changes, guards).await?;
        Ok(())
    }

    /// Waits until nobody else changes the CA here; as long as this is held nobody does.
    pub(crate) async fn alone(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().await
    }

    /// Brings what is here and what is shared together before a change of it, for whoever is [alone](Self::alone): the
    /// revision of both. What somebody has just put here is shared first.
    ///
    /// # Errors
    /// It cannot be used, unsealed, written or shared.
    pub(crate) async fn begin(
        &self,
        clerk: &ClerkHandle,
        pki: &Pki,
    ) -> Result<Option<Revision>, SharingError> {
        pki.refresh(SystemTime::now())?;
        self.meet(clerk, pki).await
    }

    /// Shares what was changed here since the CA of a revision. If somebody else was first, or it is not known what
    /// became of it, what is shared is taken up again.
    ///
    /// # Errors
    /// The ledger does not take it.
    pub(crate) async fn share(
        &self,
        clerk: &ClerkHandle,
        pki: &Pki,
        after: Revision,
    ) -> Result<(), SharingError> {
        if let Err(error) = self.submit(clerk, &pki.shared()?, after).await {
            if let Some((shared, _)) = self.shared(clerk)? {
                pki.take_shared(&shared, SystemTime::now())?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Takes up what others change, and shares what is changed here and not by a call; and with the others, when the CA
    /// is no new one any more. Runs as long as the server.
    pub(crate) async fn run(self, clerk: ClerkHandle, pki: Arc<Pki>, knocks: Knocks) {
        let (mut revisions, mut changes) = (clerk.revisions(), pki.changes());
        let (mut met, mut again): (_, Option<Instant>) = (None, None);
        loop {
            let shared = clerk.read(|ledger| ledger.shared_authority().map(|(_, revision)| revision));
            let now = (shared, *changes.borrow_and_update(), knocks.is_counting());
            if met != Some(now) || again.is_some_and(|at| at <= Instant::now()) {
                met = Some(now);
                again = match self.follow(&clerk, &pki, &knocks).await {
                    Ok(()) => None,
                    Err(error) => {
                        error!(%error, "what is shared of the CA and what is here do not come together");
                        Some(Instant::now() + LATER)
                    }
                };
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = changes.changed() => {}
                () = knocks.ended() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }

    async fn follow(&self, clerk: &ClerkHandle, pki: &Pki, knocks: &Knocks) -> Result<(), SharingError> {
        let _one_at_a_time = self.alone().await;
        self.meet(clerk, pki).await?;
        let Some((shared, revision)) = self.shared(clerk)? else { return Ok(()) };
        match proven(&shared) {
            // Another one has seen it, or it was none.
            None => knocks.end(),
            Some(proven) if !knocks.is_counting() => {
                self.submit(clerk, &proven, revision).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Has the later one of what is here and what is shared be both; its revision.
    async fn meet(&self, clerk: &ClerkHandle, pki: &Pki) -> Result<Option<Revision>, SharingError> {
        let Some((shared, revision)) = self.shared(clerk)? else { return Ok(None) };
        let here = pki.shared()?;
        match Precedence::between(&shared, &here) {
            Precedence::Shared => {
                pki.take_shared(&shared, SystemTime::now())?;
                Ok(Some(revision))
            }
            Precedence::Here => {
                info!("the CA here is a later one than that in the store, and takes its place");
                self.submit(clerk, &here, revision).await.map(Some)
            }
            Precedence::Neither => Err(SharingError::AnotherLife(pki.directory().to_owned())),
        }
    }

    /// What is shared, and its revision.
    fn shared(&self, clerk: &ClerkHandle) -> Result<Option<(Files, Revision)>, SharingError> {
        let record = clerk
            .read(|ledger| ledger.shared_authority().map(|(sealed, revision)| (sealed.to_owned(), revision)));
        let Some((sealed, revision)) = record else { return Ok(None) };
        Ok(Some((self.0.seal.open(&sealed)?, revision)))
    }

    /// Shares files instead of those of a revision; theirs.
    async fn submit(
        &self,
        clerk: &ClerkHandle,
        files: &Files,
        after: Revision,
    ) -> Result<Revision, SharingError> {
        let sealed = self.0.seal.close(files);
        clerk.submit(Command::ShareAuthority { sealed: sealed.clone(), after }).await?;
        let revision = clerk.read(|ledger| {
            let shared = ledger.shared_authority().filter(|(shared, _)| *shared == sealed);
            shared.map(|(_, revision)| revision)
        });
        // Somebody has changed it again already.
        revision.ok_or_else(|| SubmitError::from(Refusal::AuthorityChanged).into())
    }
}

fn open(config: &Config) -> Result<Pki, PkiError> {
    Pki::open_or_create(&config.pki_dir(), &config.cluster, SystemTime::now())
}

#[cfg(test)]
mod tests;
