//! The CA of several control planes: taken from the store they share, given to it, and followed there.
//!
//! ```text
//!  start:   record ─▶ files, or, of several first starts, one: files ─▶ record
//!  rotate:  files ─▶ step ─▶ record, if nobody was first
//!  follow:  record ─▶ files ─▶ Pki
//! ```

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Duration, sleep};
use tracing::{error, info};

use crate::clerk::{ClerkHandle, SubmitError};
use crate::config::Config;
use crate::identity::{Pki, PkiError, Seal, SealError};
use crate::ledger::{Command, Corrupt, Ledger};
use crate::store::{CommitError, Revision, Store, StoreError};

/// Between two looks at a store in which somebody else was first.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a CA is looked for that somebody else has shared, at most.
const LOOKS: u32 = 100;

/// Shares the CA of this control plane; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sharing(Arc<Seal>);

/// The CA cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// It cannot be sealed or unsealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The files here.
    #[error("state-dir: {0}")]
    Pki(#[from] PkiError),
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
        Ok(seal.map(|seal| Self(Arc::new(seal))))
    }

    /// Opens the CA that is in the store, or shares the one that is here, or made here, if there is none.
    ///
    /// # Errors
    /// Names what cannot be read, written or unsealed.
    pub(crate) async fn open<S: Store>(&self, store: &S, config: &Config) -> Result<Pki, SharingError> {
        let directory = config.pki_dir();
        let open = || Pki::open_or_create(&directory, &config.cluster, SystemTime::now());
        for _ in 0..LOOKS {
            if let Some(sealed) = Ledger::shared_authority_of(&store.load().await?)? {
                Pki::put_shared(&directory, &self.0.open(&sealed)?)?;
                return Ok(open()?);
            }
            let pki = open()?;
            pki.note_life(config.certificate_validity)?;
            let (changes, guards) = Ledger::first_shared_authority(self.0.close(&pki.shared()?));
            match store.commit(changes, guards).await {
                Ok(_) => {
                    info!("the cluster's CA is shared from here");
                    return Ok(pki);
                }
                Err(CommitError::Conflict(_)) => sleep(AGAIN).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Unknown.into())
    }

    /// The revision of what is shared, after it was taken up here.
    ///
    /// # Errors
    /// It cannot be unsealed or written.
    pub(crate) fn take_up(&self, clerk: &ClerkHandle, pki: &Pki) -> Result<Option<Revision>, SharingError> {
        let shared = clerk
            .read(|ledger| ledger.shared_authority().map(|(sealed, revision)| (sealed.to_owned(), revision)));
        let Some((sealed, revision)) = shared else { return Ok(None) };
        pki.take_shared(&self.0.open(&sealed)?, SystemTime::now())?;
        Ok(Some(revision))
    }

    /// Shares what was changed here since the CA of a revision. If somebody else was first, that is taken up again.
    ///
    /// # Errors
    /// The ledger does not take it.
    pub(crate) async fn share(
        &self,
        clerk: &ClerkHandle,
        pki: &Pki,
        after: Revision,
    ) -> Result<(), SharingError> {
        let command = Command::ShareAuthority { sealed: self.0.close(&pki.shared()?), after };
        if let Err(error) = clerk.submit(command).await {
            // It may have been shared all the same: what is in the ledger then counts.
            self.take_up(clerk, pki)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Takes up what others change. Runs as long as the server.
    pub(crate) async fn run(self, clerk: ClerkHandle, pki: Arc<Pki>) {
        let mut revisions = clerk.revisions();
        let mut taken = None;
        loop {
            let shared = clerk.read(|ledger| ledger.shared_authority().map(|(_, revision)| revision));
            if shared != taken {
                match self.take_up(&clerk, &pki) {
                    Ok(revision) => taken = revision,
                    Err(error) => {
                        error!(%error, "another CA is shared, and cannot be taken up");
                        taken = shared;
                    }
                }
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clerk::testing::Bench;
    use crate::identity::{Phase, Step};
    use crate::store::MemoryStore;

    const LIFE: Duration = Duration::from_secs(3600);

    fn replica(directory: &std::path::Path, name: &str) -> (Config, Sharing) {
        let seal = directory.join("seal");
        std::fs::write(&seal, [7; 32]).unwrap();
        let mut config = Config { state_dir: directory.join(name), ..Config::default() };
        config.store.ca_seal_file = Some(seal);
        let sharing = Sharing::of(&config).unwrap().unwrap();
        (config, sharing)
    }

    fn root(pki: &Pki) -> String {
        pki.authority().trust_pem()
    }

    #[tokio::test]
    async fn several_first_starts_make_one_ca_and_each_takes_up_what_another_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let [(one, first), (other, second)] = ["one", "other"].map(|name| replica(directory.path(), name));
        let (here, there) = tokio::join!(first.open(&*store, &one), second.open(&*store, &other));
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!(root(&here), root(&there));
        assert_eq!(here.token_key().unwrap(), there.token_key().unwrap());

        let bench = Bench::start(&store).await;
        let before = first.take_up(&bench.clerk, &here).unwrap().unwrap();
        here.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
        first.share(&bench.clerk, &here, before).await.unwrap();
        second.take_up(&bench.clerk, &there).unwrap();
        assert_eq!(there.authority().phase(), Phase::Prepared);
        assert_eq!(root(&here), root(&there));

        // Somebody who has not seen it yet is not first.
        there.rotate(Step::Issue, LIFE, SystemTime::now()).unwrap();
        assert!(second.share(&bench.clerk, &there, before).await.is_err());
        assert_eq!(there.authority().phase(), Phase::Prepared, "what is shared was taken up again");
        assert_eq!(root(&here), root(&there));
    }

    #[tokio::test]
    async fn another_seal_opens_nothing_and_leaves_everything() {
        let directory = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let (config, sharing) = replica(directory.path(), "one");
        sharing.open(&store, &config).await.unwrap();
        let (other, _) = replica(directory.path(), "other");
        std::fs::write(directory.path().join("seal"), [8; 32]).unwrap();
        let wrong = Sharing::of(&other).unwrap().unwrap();
        let error = wrong.open(&store, &other).await.unwrap_err().to_string();
        assert!(error.contains("was not sealed with this file"), "{error}");
        assert!(!other.pki_dir().join("ca.crt").exists());
    }
}
