//! Space held back so that a store on a full disk can still be opened, and the probe that tells when writing
//! works again.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use nix::fcntl;

/// How much is held back; sled needs a few segments of 512 KiB to open.
pub(super) const BALLAST_BYTES: u64 = 16 << 20;
/// The least that is worth holding back.
const LEAST_BYTES: u64 = 2 << 20;
/// Two of sled's segments.
const PROBE_BYTES: usize = 1 << 20;

const BALLAST: &str = "ballast";
const PROBE: &str = "probe";

/// Holds back as much as the disk allows, up to [`BALLAST_BYTES`]; says how much that is.
pub(super) fn hold(dir: &Path) -> io::Result<u64> {
    let path = dir.join(BALLAST);
    if let Ok(metadata) = fs::metadata(&path)
        && metadata.len() >= BALLAST_BYTES
    {
        return Ok(metadata.len());
    }
    let mut bytes = BALLAST_BYTES;
    loop {
        match allocate(&path, bytes) {
            Ok(()) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::StorageFull && bytes / 2 >= LEAST_BYTES => {
                bytes /= 2
            }
            Err(error) => {
                release(dir)?;
                return Err(error);
            }
        }
    }
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

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    let len = bytes.try_into().map_err(io::Error::other)?;
    Ok(fcntl::posix_fallocate(&file, 0, len)?)
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
