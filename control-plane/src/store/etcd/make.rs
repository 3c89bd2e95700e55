//! Making a store: an empty one at once, a copy piece by piece, which is none before its last piece.

use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp};

use super::super::Loaded;
use super::EtcdOptions;
use super::error::EtcdError;
use super::ground::end_of;
use super::layout::FORMAT;
use super::open::Reader;

/// The format mark of a copy that is being made.
pub(super) const HALF: &str = "half a copy";
/// Most pieces that are written at a time; etcd takes 128 operations.
const PIECES: usize = 100;
/// Most bytes that are written at a time, about; etcd takes 1.5 MiB.
const BYTES: usize = 512 << 10;

/// Makes an empty store.
pub(super) async fn create(options: &EtcdOptions) -> Result<(), EtcdError> {
    let reader = Reader::new(options);
    let address = options.address.clone();
    if reader.format().await?.is_none() && !reader.is_empty().await? {
        return Err(EtcdError::Foreign { address });
    }
    let names = &reader.names;
    let nobody = Compare::create_revision(names.format(), CompareOp::Equal, 0);
    let first =
        [TxnOp::put(names.format(), FORMAT, None), TxnOp::put(names.head(), names.first_head(), None)];
    // Of several that try at once one does.
    let made = transact(&reader, Txn::new().when([nobody]).and_then(first)).await?;
    if made { Ok(()) } else { Err(EtcdError::Present { address }) }
}

/// Makes a copy.
pub(super) async fn copy(options: &EtcdOptions, loaded: &Loaded) -> Result<(), EtcdError> {
    let reader = Reader::new(options);
    let address = options.address.clone();
    match reader.format().await?.as_deref() {
        None if reader.is_empty().await? => {}
        Some(HALF) => {}
        None => return Err(EtcdError::Foreign { address }),
        Some(_) => return Err(EtcdError::Present { address }),
    }
    let names = &reader.names;
    let everything = DeleteOptions::new().with_range(end_of(names.all()));
    transact(&reader, Txn::new().and_then([TxnOp::delete(names.all(), Some(everything))])).await?;
    transact(&reader, Txn::new().and_then([TxnOp::put(names.format(), HALF, None)])).await?;
    let mut bytes = 0;
    let mut pieces = Vec::new();
    for (name, value) in names.copy(loaded) {
        bytes += name.len() + value.len();
        pieces.push(TxnOp::put(name, value, None));
        if pieces.len() >= PIECES || bytes >= BYTES {
            bytes = 0;
            transact(&reader, Txn::new().and_then(std::mem::take(&mut pieces))).await?;
        }
    }
    pieces.push(TxnOp::put(names.format(), FORMAT, None));
    // What somebody else has begun meanwhile is not ours to finish.
    let half = Compare::value(names.format(), CompareOp::Equal, HALF);
    let made = transact(&reader, Txn::new().when([half]).and_then(pieces)).await?;
    if made { Ok(()) } else { Err(EtcdError::Present { address }) }
}

/// Whether what was to hold did.
async fn transact(reader: &Reader<'_>, txn: Txn) -> Result<bool, EtcdError> {
    let member = reader.members.member().await.map_err(|error| reader.failed(error))?;
    let answer = member.kv().txn(txn).await.map_err(|error| reader.failed(error))?;
    Ok(answer.succeeded())
}
