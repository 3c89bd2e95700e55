//! `loden-control-plane store`: makes a store in an etcd, and copies one store to another.

use tracing::debug;

use crate::config::{Config, FlagFileError, StoreAddress};
use crate::ledger::{Corrupt, Ledger};
use crate::store::{EtcdError, EtcdStore, Loaded, OpenError, Options, SledStore, Store, StoreError};

/// A store was not made.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It makes itself.
    #[error("store: \"{0}\" needs no making: a control plane makes its own at its first start")]
    MakesItself(StoreAddress),
    /// A store of sled that is not there would be made by looking at it.
    #[error("from: \"{0}\" is not there")]
    Absent(StoreAddress),
    /// What is copied would change meanwhile.
    #[error("from: \"{from}\" is served by {}: stop it first", users.join(" and "))]
    Used {
        /// The store.
        from: StoreAddress,
        /// The names of the control planes.
        users: Vec<String>,
    },
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

/// Copies all of a store to where there is none: records, revisions and history, so that whoever follows goes on.
///
/// # Errors
/// The one cannot be read or is in use, or the other cannot be made.
pub async fn copy(config: &Config, from: &StoreAddress, to: &StoreAddress) -> Result<Copied, TransferError> {
    let loaded = read(config, from).await?;
    // Nobody is to start with what a control plane would not start with.
    Ledger::load(&loaded)?;
    let copied = Copied { records: loaded.records.len(), revision: loaded.revision.0 };
    debug!(?copied, %from, %to, "copying");
    match to {
        StoreAddress::Sled(directory) => SledStore::create_copy(directory, loaded).await?,
        StoreAddress::Etcd(address) => EtcdStore::create_copy(&config.store.etcd(address)?, &loaded).await?,
    }
    Ok(copied)
}

async fn read(config: &Config, from: &StoreAddress) -> Result<Loaded, TransferError> {
    match from {
        StoreAddress::Sled(directory) if !directory.is_dir() => Err(TransferError::Absent(from.clone())),
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
