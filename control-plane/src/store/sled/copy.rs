//! A store that begins with the contents of another one: made beside its place, and put there when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::{Loaded, journal};
use super::error::{OpenError, io_error, write_error};
use super::layout::{self, Writes};
use super::open;

/// Records that are written at a time.
const PAGE: usize = 100;

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
    for writes in pages(loaded) {
        database.write(&writes).map_err(|error| write_error(dir, error))?;
    }
    open::sync_all(&half, &database)?;
    drop(database);
    fs::rename(&half, dir).map_err(|error| io_error(dir, "make", dir, error))?;
    open::sync_parent(dir)
}

/// Where a store is made.
fn half(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.half"))
}

fn pages(loaded: &Loaded) -> impl Iterator<Item = Writes> {
    let records = loaded.records.chunks(PAGE).map(|records| {
        let records = records.iter().flat_map(layout::record_writes).collect();
        Writes { records, ..Writes::default() }
    });
    let groups = journal::regroup(loaded).map(|(batches, before)| {
        let journal = layout::group_writes(before, batches).collect();
        Writes { journal, ..Writes::default() }
    });
    let meta = Writes { meta: layout::meta(journal::Head::of(loaded)), ..Writes::default() };
    records.chain(groups).chain([meta])
}
