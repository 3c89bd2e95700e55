//! Which running host the agent is on, so that a copy of its state on another host can be told from itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use loden_proto::InvalidValue;
use loden_proto::model::BootId;

/// Random per boot (proc_sys_kernel(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Its inode is the network namespace (namespaces(7)).
const NAMESPACE: &str = "/proc/self/ns/net";

/// This boot of this host, in this network namespace: what holds addresses and devices. A restart of the
/// agent does not change it.
///
/// # Errors
/// The kernel does not tell it.
pub(crate) fn id() -> io::Result<BootId> {
    read(Path::new(BOOT_ID), Path::new(NAMESPACE))
}

fn read(boot: &Path, namespace: &Path) -> io::Result<BootId> {
    let boot: BootId =
        fs::read_to_string(boot)?.trim_end().replace('-', "").parse().map_err(|invalid: InvalidValue| {
            io::Error::new(io::ErrorKind::InvalidData, invalid.at("boot_id"))
        })?;
    Ok(BootId(boot.0 ^ u128::from(fs::metadata(namespace)?.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_until_it_boots_and_its_namespaces_differ() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let boot = file("boot", "0a0b0c0d-0000-4000-8000-00000000000f\n");
        let (one, two) = (file("one", ""), file("two", ""));
        let id = read(&boot, &one).unwrap();
        assert_eq!(read(&boot, &one).unwrap(), id);
        assert_ne!(read(&boot, &two).unwrap(), id);
        let rebooted = file("rebooted", "1a0b0c0d-0000-4000-8000-00000000000f\n");
        assert_ne!(read(&rebooted, &one).unwrap(), id);
        let error = read(&one, &one).unwrap_err().to_string();
        assert!(error.contains("boot_id: must be 32 hexadecimal digits"), "{error}");
    }

    #[test]
    fn the_kernel_tells_it() {
        assert_eq!(id().unwrap(), id().unwrap());
    }
}
