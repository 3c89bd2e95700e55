//! One network's file: a whole state, then what changed since.
//!
//! ```text
//! magic │ length, its crc │ JSON │ crc │ length, its crc │ JSON │ crc │ …
//!         └─────── base ─────────────┘   └────── change ────────────┘
//! ```
//!
//! A change is appended before the kernel is touched, in one write. It is not
//! synced: the page cache outlives this process, and after a power cut the
//! kernel is empty too and an older whole state is as good a start. So a file
//! that ends within its last record is the state before that record, which is
//! what the kernel has; anything else that does not add up is no state.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use loden_proto::model::{Network, Peer};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::{Held, Kept};
use crate::keys::Keys;
use crate::peers::{Delta, PeerSet, Refused, Token, Update};

const MAGIC: &[u8] = b"LODEN-A1";
/// Length and its checksum, each 4 bytes, little-endian.
const HEADER: usize = 8;
/// The checksum of a record's text.
const TRAILER: usize = 4;
/// Changes below this size are never worth a rewrite, in bytes.
const SMALL: u64 = 64 * 1024;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Record {
    Base {
        lease: Option<(Held, Network)>,
        peers: Option<KeptPeers>,
        #[serde(default)]
        sends_from: Vec<IpAddr>,
        #[serde(default)]
        keys: Option<Keys>,
        #[serde(default)]
        silent: BTreeSet<IpAddr>,
    },
    Lease(Held, Network),
    SendsFrom(Vec<IpAddr>),
    Keys(Keys),
    Silent(BTreeSet<IpAddr>),
    Change(KeptDelta),
}

#[derive(Deserialize, Serialize)]
struct KeptPeers {
    peers: Vec<Peer>,
    refused: Vec<(String, String)>,
    token: Option<Token>,
    grounded: bool,
}

#[derive(Deserialize, Serialize)]
struct KeptDelta {
    upserts: Vec<Peer>,
    refused: Vec<(String, String)>,
    removed: Vec<String>,
    network: Option<Box<Network>>,
    token: Option<Token>,
}

/// The file of one network.
#[derive(Debug)]
pub struct NetworkFile {
    path: PathBuf,
    /// Open for appending; none when a whole state must be written first.
    file: Option<File>,
    /// Why it could not be opened for that.
    refused: Option<io::Error>,
    base: u64,
    changes: u64,
}

impl NetworkFile {
    pub(super) fn open(path: PathBuf) -> (Self, Kept) {
        let mut this = Self { path, file: None, refused: None, base: 0, changes: 0 };
        let bytes = match fs::read(&this.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = %this.path.display(), %error, "state unreadable; starting without");
                }
                return (this, Kept::default());
            }
        };
        let Some((kept, whole)) = read(&bytes) else {
            warn!(path = %this.path.display(), "state damaged; starting without");
            return (this, Kept::default());
        };
        if whole == bytes.len() {
            match OpenOptions::new().append(true).open(&this.path) {
                Ok(file) => this.file = Some(file),
                Err(error) => this.refused = Some(error),
            }
            // Rewritten at the latest when the changes outgrow it again.
            this.base = bytes.len() as u64;
        }
        (this, kept)
    }

    /// Why nothing could be written to it when it was opened, though it is there.
    #[must_use]
    pub const fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }

    /// Keeps a change. False when a whole state is due instead: there is none
    /// yet, the last write failed, or the changes outgrew it.
    ///
    /// # Errors
    /// The disk refuses; a whole state is due then.
    pub fn append(&mut self, delta: &Delta) -> io::Result<bool> {
        self.append_record(&Record::Change(KeptDelta {
            upserts: delta.upserts.clone(),
            refused: pairs(&delta.refused),
            removed: delta.removed.clone(),
            network: delta.network.clone(),
            token: delta.token.clone(),
        }))
    }

    /// Keeps a lease; as [`Self::append`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_lease(&mut self, held: Held, network: &Network) -> io::Result<bool> {
        self.append_record(&Record::Lease(held, network.clone()))
    }

    /// Keeps the addresses that are sent from; as [`Self::append`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_addresses(&mut self, sends_from: &[IpAddr]) -> io::Result<bool> {
        self.append_record(&Record::SendsFrom(sends_from.to_vec()))
    }

    /// Keeps the keys of this node's tunnel; as [`Self::append`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_keys(&mut self, keys: &Keys) -> io::Result<bool> {
        self.append_record(&Record::Keys(keys.clone()))
    }

    /// Keeps who does not answer on a link; as [`Self::append`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_silent(&mut self, silent: &BTreeSet<IpAddr>) -> io::Result<bool> {
        self.append_record(&Record::Silent(silent.clone()))
    }

    fn append_record(&mut self, record: &Record) -> io::Result<bool> {
        if self.changes > self.base.max(SMALL) {
            self.file = None;
        }
        let Some(mut file) = self.file.take() else { return Ok(false) };
        if file.metadata()?.nlink() == 0 {
            // Somebody has removed it: what is written to it would be kept for nobody.
            return Ok(false);
        }
        let mut bytes = Vec::new();
        frame(record, &mut bytes)?;
        // Not put back after a failure: half a record may be at the end.
        file.write_all(&bytes)?;
        self.file = Some(file);
        self.changes += bytes.len() as u64;
        Ok(true)
    }

    /// Removes what is kept; a whole state is due next.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget(&mut self) -> io::Result<()> {
        (self.file, self.base, self.changes) = (None, 0, 0);
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps a whole state, durable when it returns.
    ///
    /// # Errors
    /// The disk refuses; what was there stays.
    pub async fn rewrite(&mut self, content: Content) -> io::Result<()> {
        self.file = None;
        let path = self.path.clone();
        self.base = content.0.len() as u64;
        self.changes = 0;
        let replaced = spawn_blocking(move || super::replace(&path, &content.0)).await;
        replaced.map_err(io::Error::other)??;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }
}

/// What is known beside lease and peers; see [`Kept`].
#[derive(Debug, Default)]
pub struct Rest<'a> {
    /// The addresses that were sent from last.
    pub sends_from: &'a [IpAddr],
    /// Those of this node's tunnel.
    pub keys: Option<&'a Keys>,
    /// Who does not answer on a link.
    pub silent: BTreeSet<IpAddr>,
}

/// A whole state, ready to be written.
#[derive(Debug)]
pub struct Content(Vec<u8>);

impl Content {
    /// # Errors
    /// It is larger than a file may be.
    pub fn of(lease: Option<&(Held, Network)>, peers: Option<&PeerSet>, rest: Rest<'_>) -> io::Result<Self> {
        let peers = peers.map(|set| KeptPeers {
            peers: set.iter().map(|peer| Peer::clone(peer)).collect(),
            refused: set.refused().iter().map(|(node, reason)| (node.clone(), reason.clone())).collect(),
            token: set.token().cloned(),
            grounded: set.is_grounded(),
        });
        let mut bytes = MAGIC.to_vec();
        let base = Record::Base {
            lease: lease.cloned(),
            peers,
            sends_from: rest.sends_from.to_vec(),
            keys: rest.keys.cloned(),
            silent: rest.silent,
        };
        frame(&base, &mut bytes)?;
        Ok(Self(bytes))
    }
}

fn frame(record: &Record, bytes: &mut Vec<u8>) -> io::Result<()> {
    let begin = bytes.len();
    bytes.extend([0; HEADER]);
    serde_json::to_writer(&mut *bytes, record)?;
    let text = &bytes[begin + HEADER..];
    let crc = crc32fast::hash(text);
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?.to_le_bytes();
    bytes[begin..begin + 4].copy_from_slice(&length);
    bytes[begin + 4..begin + HEADER].copy_from_slice(&crc32fast::hash(&length).to_le_bytes());
    bytes.extend(crc.to_le_bytes());
    Ok(())
}

/// The state in the file, and where its last whole record ends.
pub(super) fn read(bytes: &[u8]) -> Option<(Kept, usize)> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let Some(Record::Base { lease, peers, sends_from, keys, silent }) = next(&mut rest).ok()? else {
        return None;
    };
    let peers = peers.map(|kept| {
        let refused = kept.refused.into_iter().collect();
        PeerSet::restored(kept.peers, refused, kept.token, kept.grounded)
    });
    let mut kept = Kept { lease, peers, sends_from, keys, silent };
    loop {
        let whole = bytes.len() - rest.len();
        match next(&mut rest).ok()? {
            Some(Record::Change(delta)) => change(&mut kept, delta)?,
            Some(Record::Lease(held, network)) => kept.lease = Some((held, network)),
            Some(Record::SendsFrom(addresses)) => kept.sends_from = addresses,
            Some(Record::Keys(keys)) => kept.keys = Some(keys),
            Some(Record::Silent(silent)) => kept.silent = silent,
            Some(Record::Base { .. }) => return None,
            None => return Some((kept, whole)),
        }
    }
}

fn change(kept: &mut Kept, delta: KeptDelta) -> Option<()> {
    if let (Some((_, known)), Some(network)) = (&mut kept.lease, &delta.network) {
        known.clone_from(network);
    }
    let refused = delta.refused.into_iter().map(|(node, reason)| Refused { node, reason }).collect();
    let KeptDelta { upserts, removed, network, token, .. } = delta;
    kept.peers.as_mut()?.apply(Update::Delta(Delta { upserts, refused, removed, network, token }));
    Some(())
}

/// The bytes are not what was written.
struct Damaged;

/// The next record; none at the end, or where one begins that was never finished.
fn next(rest: &mut &[u8]) -> Result<Option<Record>, Damaged> {
    let Some((header, after)) = rest.split_at_checked(HEADER) else { return Ok(None) };
    let (length, crc) = header.split_at(4);
    if crc32fast::hash(length).to_le_bytes() != crc {
        return Err(Damaged);
    }
    let length = u32::from_le_bytes(length.try_into().map_err(|_| Damaged)?) as usize;
    let Some((text, after)) = after.split_at_checked(length) else { return Ok(None) };
    let Some((crc, after)) = after.split_at_checked(TRAILER) else { return Ok(None) };
    if crc32fast::hash(text).to_le_bytes() != crc {
        return Err(Damaged);
    }
    *rest = after;
    serde_json::from_slice(text).map(Some).map_err(|_| Damaged)
}

fn pairs(refused: &[Refused]) -> Vec<(String, String)> {
    refused.iter().map(|refused| (refused.node.clone(), refused.reason.clone())).collect()
}
