//! `loden-control-plane store`: makes a store in an etcd, copies one store to another, and shares a CA there anew.

use tracing::debug;

use crate::config::{Config, FlagFileError, StoreAddress};
use crate::identity::SealError;
use crate::ledger::{Corrupt, Ledger};
use crate::sharing::{Sharing, SharingError};
use crate::store::{EtcdError, EtcdStore, Loaded, OpenError, Options, SledStore, Store, StoreError};

/// A store was not made.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It makes itself.
    #[error("store: \"{0}\" needs no making: a control plane makes its own at its first start")]
    MakesItself(StoreAddress),
    /// A store of sled that is not there would be made by looking at it, also in a directory that is.
    #[error("from: \"{0}\" is no store, or not there")]
    Absent(StoreAddress),
    /// What is copied would change meanwhile.
    #[error("from: \"{from}\" is served by {}: stop it first", users.join(" and "))]
    Used {
        /// The store.
        from: StoreAddress,
        /// The names of the control planes.
        users: Vec<String>,
    },
    /// Who runs has taken up the CA that is to be replaced.
    #[error("store: \"{store}\" is served by {}: stop it first", users.join(" and "))]
    Served {
        /// The store.
        store: StoreAddress,
        /// The names of the control planes.
        users: Vec<String>,
    },
    /// It is of one control plane, which has its CA for itself, or there is nothing to seal one with.
    #[error("store: \"{0}\" shares no CA: that takes an etcd, and --ca-seal-file")]
    Unshared(StoreAddress),
    /// The file that seals the CA.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The CA is not shared.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The file of a flag.
    #[error(transparent)]
    File(#[from] FlagFileError),
    /// One in etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// One of sled.
    #[error(transparent)]
    Sled(#[from] OpenError),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it is no ledger.
    #[error("from: {0}")]
    Corrupt(#[from] Corrupt),
}

/// What was copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copied {
    /// Records.
    pub records: usize,
    /// The revision that the copy goes on from.
    pub revision: u64,
}

/// Makes an empty store in an etcd.
///
/// # Errors
/// etcd refuses, or there is something already.
pub async fn create(config: &Config) -> Result<StoreAddress, TransferError> {
    let address = config.store();
    match &address {
        StoreAddress::Etcd(etcd) => EtcdStore::create(&config.store.etcd(etcd)?).await?,
        StoreAddress::Sled(_) => return Err(TransferError::MakesItself(address)),
    }
    Ok(address)
}

/// Copies all of a store to where there is none: records, revisions and history, so that whoever follows goes on. Only the
/// shared CA is left out where one side is no etcd: there the CA is changed without it, and an older one would come back.
///
/// # Errors
/// The one cannot be read or is in use, or the other cannot be made.
pub async fn copy(config: &Config, from: &StoreAddress, to: &StoreAddress) -> Result<Copied, TransferError> {
    let mut loaded = read(config, from).await?;
    // Nobody is to start with what a control plane would not start with.
    Ledger::load(&loaded)?;
    if !matches!((from, to), (StoreAddress::Etcd(_), StoreAddress::Etcd(_))) {
        Ledger::forget_shared_authority(&mut loaded);
    }
    let copied = Copied { records: loaded.records.len(), revision: loaded.revision.0 };
    debug!(?copied, %from, %to, "copying");
    match to {
        StoreAddress::Sled(directory) => SledStore::create_copy(directory, loaded).await?,
        StoreAddress::Etcd(address) => EtcdStore::create_copy(&config.store.etcd(address)?, &loaded).await?,
    }
    Ok(copied)
}

/// Has the CA in the state directory take the place of the one that is shared in an etcd, while nobody runs on it; answers
/// where that is.
///
/// # Errors
/// There is no CA, it cannot be sealed, or the store is in use or cannot be written.
pub async fn share_ca(config: &Config) -> Result<StoreAddress, TransferError> {
    let store = config.store();
    let Some(sharing) = Sharing::of(config)? else { return Err(TransferError::Unshared(store)) };
    let StoreAddress::Etcd(address) = &store else { return Err(TransferError::Unshared(store)) };
    let options = config.store.etcd(address)?;
    let (_, users) = EtcdStore::read(&options).await?;
    if !users.is_empty() {
        return Err(TransferError::Served { store, users });
    }
    let opened = EtcdStore::open(&options, config.name.as_str()).await?;
    let shared = sharing.replace(&opened, config).await;
    opened.close().await;
    shared?;
    Ok(store)
}

async fn read(config: &Config, from: &StoreAddress) -> Result<Loaded, TransferError> {
    match from {
        StoreAddress::Sled(directory) if !SledStore::is_in(directory) => {
            Err(TransferError::Absent(from.clone()))
        }
        StoreAddress::Sled(directory) => {
            let store = SledStore::open(directory, Options::default()).await?;
            let loaded = store.load().await?;
            store.close().await;
            Ok(loaded)
        }
        StoreAddress::Etcd(address) => {
            let (loaded, users) = EtcdStore::read(&config.store.etcd(address)?).await?;
            if users.is_empty() { Ok(loaded) } else { Err(TransferError::Used { from: from.clone(), users }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Loaded;

    fn sled(path: &std::path::Path) -> StoreAddress {
        StoreAddress::Sled(path.to_owned())
    }

    async fn loaded(directory: &std::path::Path) -> Loaded {
        let store = SledStore::open(directory, Options::default()).await.unwrap();
        let loaded = store.load().await.unwrap();
        store.close().await;
        loaded
    }

    /// One that was copied from an etcd has the CA of then, and its state directory that of now.
    #[tokio::test]
    async fn a_copy_for_one_control_plane_has_no_shared_ca() {
        let state = tempfile::tempdir().unwrap();
        let (from, to) = (state.path().join("from"), state.path().join("to"));
        let store = SledStore::open(&from, Options::default()).await.unwrap();
        let (changes, guards) = Ledger::sharing_authority("sealed".to_owned(), None);
        let revision = store.commit(changes, guards).await.unwrap();
        store.close().await;
        let copied = copy(&Config::default(), &sled(&from), &sled(&to)).await.unwrap();
        assert_eq!(copied, Copied { records: 0, revision: revision.0 });
        let (before, after) = (loaded(&from).await, loaded(&to).await);
        assert_eq!((before.records.len(), after.records.len()), (1, 0));
        assert_eq!((after.history, after.hash), (before.history, before.hash));
    }

    #[tokio::test]
    async fn a_directory_without_a_store_is_not_copied_and_gets_none() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join("pki")).unwrap();
        let (from, to) = (sled(state.path()), sled(&state.path().join("to")));
        let refused = copy(&Config::default(), &from, &to).await.unwrap_err().to_string();
        assert!(refused.ends_with("is no store, or not there"), "{refused}");
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_store_of_one_control_plane_shares_no_ca() {
        let refused = share_ca(&Config::default()).await.unwrap_err().to_string();
        assert!(refused.ends_with("shares no CA: that takes an etcd, and --ca-seal-file"), "{refused}");
    }
}
