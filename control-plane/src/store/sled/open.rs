//! Opening a store directory, also on a full disk or after a power cut, and checking all that it holds.
//!
//! ```text
//!  lock ▶ clear half-made files ▶ sled ──full──▶ release ballast ──▶ sled again
//!                                   └─corrupt snapshot─▶ drop it ──▶ sled again (reads its log instead)
//!       ▶ format ▶ read and check every record and batch ▶ fsync all ▶ hold ballast
//! ```

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tracing::{info, warn};

use super::{
    super::journal::Head,
    SledStore, ballast,
    database::Database,
    error::{OpenError, database_error, io_error, write_error},
    layout::{self, Base, FORMAT, FORMAT_NAME, FORMAT_WITHOUT_BASE, Part, Writes},
    read::{self, Contents},
};

/// Opens `dir`, creating it if need be, and reads it whole.
pub(super) fn open(dir: &Path, fdatasync: bool) -> Result<(Database, Contents), OpenError> {
    create(dir)?;
    let lock = take_lock(dir)?;
    let database = open_sled(dir, lock, fdatasync)?;
    let contents = match check_format(dir, &database)
        .and_then(|format| read::read(dir, &database, format))
        .and_then(|contents| sync_all(dir, &database).map(|()| contents))
    {
        Ok(contents) => contents,
        Err(error) => {
            if matches!(error, OpenError::Full { .. }) {
                // As everywhere after a failed write: not even dropped. The process is about to give up.
                std::mem::forget(database);
            }
            return Err(error);
        }
    };
    match ballast::hold(dir) {
        Ok(ballast::BALLAST_BYTES) => {}
        Ok(bytes) => {
            warn!(bytes, "the disk is nearly full: less space than wanted is held back for the next start")
        }
        Err(error) => warn!(%error, "no space is held back: on a full disk this store will not open"),
    }
    Ok((database, contents))
}

fn create(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)
        .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o700)))
        .map_err(|source| io_error(dir, "create", dir, source))?;
    sync_parent(dir)
}

/// No power cut takes a directory away again that was made, or put there.
pub(super) fn sync_parent(dir: &Path) -> Result<(), OpenError> {
    match dir.parent() {
        Some(parent) if parent != Path::new("") => sync(dir, parent),
        _ => sync(dir, Path::new(".")),
    }
}

/// A database with nothing in it, not even the mark of a store.
pub(super) fn new(dir: &Path) -> Result<Database, OpenError> {
    create(dir)?;
    let lock = take_lock(dir)?;
    open_sled(dir, lock, true)
}

fn take_lock(dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = dir.join(SledStore::LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io_error(dir, "open", &path, source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => OpenError::Locked { dir: dir.to_owned() },
        errno => io_error(dir, "lock", &path, errno.into()),
    })
}

fn open_sled(dir: &Path, mut lock: Flock<File>, fdatasync: bool) -> Result<Database, OpenError> {
    let mut snapshots_left = true;
    // A store of this process that was closed just now: sled's threads let go of their file a little later.
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        // Sled takes a half-written snapshot for the newest one and refuses to open.
        remove_files(dir, |name| name.starts_with("snap.") && name.ends_with(".generating"))?;
        let attempt = catch_unwind(AssertUnwindSafe(|| Database::open(dir, lock, fdatasync)));
        let source = match attempt {
            Err(_) => {
                return Err(OpenError::Panicked { dir: dir.to_owned() });
            }
            Ok(Ok(database)) => return Ok(database),
            Ok(Err(source)) => source,
        };
        match &source {
            ::sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                if !ballast::release(dir)
                    .map_err(|source| io_error(dir, "remove the ballast of", dir, source))?
                {
                    return Err(OpenError::Full { dir: dir.to_owned() });
                }
                info!("disk full: released the ballast to open the store");
            }
            ::sled::Error::Io(error)
                if error.to_string().contains("could not acquire lock") && Instant::now() < patience =>
            {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            ::sled::Error::Corruption { .. } if snapshots_left => {
                snapshots_left = false;
                warn!(error = %source, "sled did not open: dropping its snapshot, to read the whole log instead");
                remove_files(dir, |name| name.starts_with("snap."))?;
            }
            _ => {
                return Err(OpenError::Database { dir: dir.to_owned(), source });
            }
        }
        lock = take_lock(dir)?;
    }
}

/// Which format the store has; what is empty becomes a store of the newest one.
fn check_format(dir: &Path, database: &Database) -> Result<u32, OpenError> {
    let found = database.meta.get(FORMAT_NAME).map_err(|source| database_error(dir, source))?;
    if let Some(found) = found {
        let found = <[u8; 4]>::try_from(&*found).map_or(0, u32::from_le_bytes);
        return match found {
            FORMAT_WITHOUT_BASE..=FORMAT => Ok(found),
            _ => Err(OpenError::Format { dir: dir.to_owned(), found }),
        };
    }
    let ours = [Part::Records, Part::Snapshots, Part::Journal, Part::Meta].map(Part::name);
    let foreign_tree = database
        .db
        .tree_names()
        .into_iter()
        .any(|name| !ours.iter().any(|ours| ours.as_bytes() == &*name) && &*name != b"__sled__default");
    let empty = [&database.db, &database.records, &database.snapshots, &database.journal, &database.meta]
        .iter()
        .all(|tree| tree.is_empty());
    if foreign_tree || !empty {
        return Err(OpenError::Foreign { dir: dir.to_owned() });
    }
    let meta = layout::meta(Head::default(), Base::default());
    database.write(&Writes { meta, ..Writes::default() }).map_err(|error| write_error(dir, error))?;
    Ok(FORMAT)
}

/// What sled wrote while opening becomes as durable as what we answer for.
pub(super) fn sync_all(dir: &Path, database: &Database) -> Result<(), OpenError> {
    database.sync().map_err(|error| write_error(dir, error))?;
    if database.file.is_none() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(|source| io_error(dir, "list", dir, source))? {
        let path = entry.map_err(|source| io_error(dir, "list", dir, source))?.path();
        sync(dir, &path)?;
    }
    sync(dir, dir)
}

fn sync(dir: &Path, path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| io_error(dir, "sync", path, source))
}

fn remove_files(dir: &Path, unwanted: impl Fn(&str) -> bool) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(|source| io_error(dir, "list", dir, source))? {
        let entry = entry.map_err(|source| io_error(dir, "list", dir, source))?;
        if entry.file_name().to_str().is_some_and(&unwanted) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| io_error(dir, "remove", &path, source))?;
        }
    }
    Ok(())
}
