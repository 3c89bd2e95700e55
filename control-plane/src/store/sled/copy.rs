//! A store that begins with the contents of another one: made beside its place, and put there when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::{Loaded, journal};
use super::database::{Database, WriteError};
use super::error::{OpenError, io_error, write_error};
use super::layout::{self, Base, Writes};
use super::{open, snapshot};

/// The number of the only snapshot.
const SNAPSHOT: u64 = 1;

/// Makes the store in `dir`, where there must be nothing.
pub(super) fn create(dir: &Path, loaded: &Loaded) -> Result<(), OpenError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(OpenError::Present { dir: dir.to_owned() });
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(dir, "read", dir, error)),
    }
    let half = half(dir);
    match fs::remove_dir_all(&half) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io_error(dir, "remove", &half, error));
        }
        _ => {}
    }
    let database = open::new(&half)?;
    let filled = fill(&database, loaded).map_err(|error| write_error(dir, error));
    if let Err(error) = filled.and_then(|()| open::sync_all(&half, &database)) {
        // As everywhere after a failed write: not even dropped. What is left of it would only fill the disk.
        std::mem::forget(database);
        let _ = fs::remove_dir_all(&half);
        return Err(error);
    }
    drop(database);
    fs::rename(&half, dir).map_err(|error| io_error(dir, "make", dir, error))?;
    open::sync_parent(dir)
}

/// Where a store is made.
fn half(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.half"))
}

/// Writes the records, the history, and at last what makes a store of them.
fn fill(database: &Database, loaded: &Loaded) -> Result<(), WriteError> {
    let mut records = loaded.records.iter().map(|record| (&record.key, &record.value, record.mod_revision));
    let mut pages = 0;
    while let Some((payload, _)) = snapshot::page(&mut records, snapshot::PAGE) {
        let snapshots = layout::page(SNAPSHOT, pages, &payload);
        database.write(&Writes { snapshots, ..Writes::default() })?;
        pages += 1;
    }
    for (batches, before) in journal::regroup(loaded) {
        let journal = layout::group_writes(before, batches);
        database.write(&Writes { journal, ..Writes::default() })?;
    }
    let base = Base { revision: loaded.revision, snapshot: SNAPSHOT, pages };
    let meta = layout::meta(journal::Head::of(loaded), base);
    database.write(&Writes { meta, ..Writes::default() })
}
