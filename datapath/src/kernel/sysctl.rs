//! Settings below `/proc/sys/net`: those of the calling thread's network
//! namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use loden_proto::model::Family;

use crate::facts::V6Off;
use crate::tables::{Setting, SysctlKey};
use crate::{DeviceName, Error};

/// Reads a setting. `None`: it does not matter, or there is no such file, as on
/// a kernel without IPv6, where what the setting prevents cannot happen.
pub(super) fn read(key: SysctlKey) -> Result<Option<i32>, Error> {
    if !matters(key) {
        return Ok(None);
    }
    match fs::read_to_string(file(key)) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| Error::Decode(format!("{key} is {text:?}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Sysctl { path: key.path(), source }),
    }
}

/// Writes a setting; where it does not matter, or its whole family is missing,
/// there is nothing to do.
pub(super) fn write(key: SysctlKey, value: i32) -> Result<(), Error> {
    if !matters(key) {
        return Ok(());
    }
    let file = file(key);
    match fs::write(&file, value.to_string()) {
        Err(error) if error.kind() == ErrorKind::NotFound && !has_family(&file) => Ok(()),
        Err(source) => Err(Error::Sysctl { path: key.path(), source }),
        Ok(()) => Ok(()),
    }
}

/// Whether packets are forwarded at all is the host's to say: where it does not, no
/// device of ours does either.
fn matters(key: SysctlKey) -> bool {
    key.setting != Setting::Forwarding || forwards().contains(&Family::V4)
}

fn file(key: SysctlKey) -> PathBuf {
    Path::new("/proc/sys").join(key.path())
}

/// `/proc/sys/net/<family>/conf`, two above the file.
fn has_family(file: &Path) -> bool {
    file.ancestors().nth(2).is_some_and(Path::exists)
}

/// The families in which this host forwards packets.
pub(super) fn forwards() -> Vec<Family> {
    let on = |path: &str| number(path).is_some_and(|value| value != 0);
    let v4 = on("net/ipv4/ip_forward").then_some(Family::V4);
    let v6 = on("net/ipv6/conf/all/forwarding").then_some(Family::V6);
    v4.into_iter().chain(v6).collect()
}

/// Where IPv6 is switched off, of these devices.
pub(super) fn v6_off(devices: impl Iterator<Item = DeviceName>) -> V6Off {
    let off = |of: &str| number(&format!("net/ipv6/conf/{of}/disable_ipv6")).is_some_and(|value| value != 0);
    V6Off {
        missing: !Path::new("/proc/sys/net/ipv6").exists(),
        all: off("all"),
        default: off("default"),
        devices: devices.filter(|device| off(device.as_str())).collect(),
    }
}

/// Whether a device filters by the reverse path strictly: the larger of its own
/// setting and that for all counts (the kernel's `ip-sysctl.rst`).
pub(super) fn is_strict(device: DeviceName) -> bool {
    let of = |name: &str| number(&format!("net/ipv4/conf/{name}/rp_filter"));
    of("all").max(of(device.as_str())) == Some(1)
}

/// Whether IPv4 packets that come in by a device are sent on. IPv6 has no such setting of a device.
pub(super) fn device_forwards(device: DeviceName) -> bool {
    number(&format!("net/ipv4/conf/{device}/forwarding")) != Some(0)
}

/// How many neighbours that are not permanent are kept at most. It holds for all network namespaces, and only
/// the first one has the files.
pub(super) fn neighbour_limits() -> Vec<(Family, usize)> {
    let of = |(family, ip)| {
        let limit = number(&format!("net/{ip}/neigh/default/gc_thresh3"))?;
        Some((family, usize::try_from(limit).ok()?))
    };
    [(Family::V4, "ipv4"), (Family::V6, "ipv6")].into_iter().filter_map(of).collect()
}

fn number(path: &str) -> Option<i32> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?.trim().parse().ok()
}
