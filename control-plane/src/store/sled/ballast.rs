//! Space held back so that a store on a full disk can still be opened, and the probe that tells when writing
//! works again.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use nix::{errno::Errno, fcntl};

/// How much is held back; sled needs a few segments of 512 KiB to open.
pub(super) const BALLAST_BYTES: u64 = 16 << 20;
/// On a nearly full disk, less is held back, by this much at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Two of sled's segments.
const PROBE_BYTES: usize = 1 << 20;

const BALLAST: &str = "ballast";
const PROBE: &str = "probe";

/// Holds back as much as the disk allows, up to [`BALLAST_BYTES`]; says how much that is.
pub(super) fn hold(dir: &Path) -> io::Result<u64> {
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(BALLAST))?;
    let held = file.metadata()?.len();
    let mut wanted = BALLAST_BYTES;
    while wanted > held {
        let length = wanted.try_into().map_err(io::Error::other)?;
        match fcntl::posix_fallocate(&file, 0, length) {
            Ok(()) => return Ok(wanted),
            // What was held stays held; a part of the rest may have been allocated.
            Err(Errno::ENOSPC) => file.set_len(held)?,
            Err(errno) => return Err(errno.into()),
        }
        wanted = wanted.saturating_sub(STEP_BYTES);
    }
    Ok(held)
}

/// Gives the space back. False if none was held.
pub(super) fn release(dir: &Path) -> io::Result<bool> {
    match fs::remove_file(dir.join(BALLAST)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a small file can be written to the disk right now.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROBE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0x5a; PROBE_BYTES])?;
        file.sync_data()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_takes_its_space_and_gives_it_back() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hold(dir.path()).unwrap(), BALLAST_BYTES);
        let blocks = fs::metadata(dir.path().join(BALLAST)).unwrap().blocks();
        assert!(blocks * 512 >= BALLAST_BYTES, "only {blocks} blocks are allocated");
        assert!(release(dir.path()).unwrap());
        assert!(!release(dir.path()).unwrap());
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
