//! Our table of the packet filter as it was put in place: an agent that starts over the same one writes nothing.

use std::fs;
use std::io;
use std::path::PathBuf;

use loden_datapath::firewall::Member;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

/// A table that was put in place.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct KeptTable {
    /// What nft was told.
    pub text: String,
    /// How nft listed it right after.
    pub listing: String,
    /// Whom it is for.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// The file of our table.
#[derive(Debug)]
pub struct TableFile {
    path: PathBuf,
}

impl TableFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was kept. A file that cannot be read is none: the table is then put in place once more.
    #[must_use]
    pub fn read(&self) -> Option<KeptTable> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }

    /// Keeps a table, or forgets the one that was kept.
    ///
    /// # Errors
    /// The disk refuses; what was there stays.
    pub async fn keep(&self, table: Option<&KeptTable>) -> io::Result<()> {
        let content = table.map(serde_json::to_vec).transpose()?;
        let path = self.path.clone();
        let kept = spawn_blocking(move || match content {
            Some(content) => super::replace(&path, &content),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        });
        kept.await.map_err(io::Error::other)?
    }
}
