//! Settings below `/proc/sys/net`: those of the calling thread's network
//! namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::tables::SysctlKey;

/// Reads a setting. `None`: there is no such file, as on a kernel without
/// IPv6, where what the setting prevents cannot happen.
pub(super) fn read(key: SysctlKey) -> Result<Option<i32>, Error> {
    match fs::read_to_string(file(key)) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| Error::Decode(format!("{key} is {text:?}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Sysctl { path: key.path(), source }),
    }
}

/// Writes a setting; where its whole family is missing there is nothing to do.
pub(super) fn write(key: SysctlKey, value: i32) -> Result<(), Error> {
    let file = file(key);
    match fs::write(&file, value.to_string()) {
        Err(error) if error.kind() == ErrorKind::NotFound && !has_family(&file) => Ok(()),
        Err(source) => Err(Error::Sysctl { path: key.path(), source }),
        Ok(()) => Ok(()),
    }
}

fn file(key: SysctlKey) -> PathBuf {
    Path::new("/proc/sys").join(key.path())
}

/// `/proc/sys/net/<family>/conf`, two above the file.
fn has_family(file: &Path) -> bool {
    file.ancestors().nth(2).is_some_and(Path::exists)
}
