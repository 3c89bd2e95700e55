//! The mode of the agent's socket. A program of its own: the umask is the whole process's.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use loden_agent::introspection::Socket;
use nix::sys::stat::{Mode, umask};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |seen| seen.permissions().mode() & 0o7777)
}

#[tokio::test]
async fn it_is_0660_whatever_the_umask_and_never_more() {
    let root = tempfile::tempdir().unwrap();
    for mask in [0o000, 0o022, 0o077, 0o777] {
        let path = root.path().join(format!("{mask:o}/agent.sock"));
        let before = umask(Mode::from_bits_truncate(mask));
        let socket = Socket::bind(&path);
        umask(before);
        let _socket = socket.unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o755), "{mask:o}");
    }

    let path = root.path().join("agent.sock");
    let done = AtomicBool::new(false);
    let before = umask(Mode::empty());
    let widest = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut widest = 0;
            while !done.load(Ordering::Relaxed) {
                widest |= mode(&path);
            }
            widest
        });
        let bound = (0..1000).try_for_each(|_| Socket::bind(&path).map(drop));
        done.store(true, Ordering::Relaxed);
        bound.unwrap();
        watcher.join().unwrap()
    });
    umask(before);
    assert!([0, 0o660].contains(&widest), "{widest:o}");
}
