//! Control groups that container runtimes make for a lab's pods, and that nobody else removes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";
/// How long processes that were killed may still be in their group.
const LAST_PROCESSES: Duration = Duration::from_secs(5);

/// Removes all groups whose names begin so, from every hierarchy.
pub(super) fn remove(prefix: &str) -> io::Result<()> {
    let begin = Instant::now();
    for group in groups(Path::new(ROOT), prefix) {
        while let Err(error) = remove_tree(&group) {
            match error.kind() {
                io::ErrorKind::NotFound => break,
                io::ErrorKind::ResourceBusy if begin.elapsed() < LAST_PROCESSES => thread::yield_now(),
                _ => return Err(error),
            }
        }
    }
    Ok(())
}

/// The root is a hierarchy (version 2) or has one in each of its folders (version 1).
fn groups(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let hierarchies = [root.to_owned()].into_iter().chain(folders(root));
    let begins = |group: &PathBuf| {
        group.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    hierarchies.flat_map(|hierarchy| folders(&hierarchy)).filter(begins).collect()
}

/// From the leaves on; the files in a group are the kernel's.
fn remove_tree(group: &Path) -> io::Result<()> {
    for folder in folders(group) {
        remove_tree(&folder)?;
    }
    fs::remove_dir(group)
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_either_version_by_how_their_names_begin() {
        let root = tempfile::tempdir().unwrap();
        for group in ["loden-1-a/pod", "cpu/loden-1-b", "cpu/loden-12-b", "cpu/system/loden-1-c"] {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        let mut found = groups(root.path(), "loden-1-");
        found.sort();
        assert_eq!(found, [root.path().join("cpu/loden-1-b"), root.path().join("loden-1-a")]);
        remove_tree(&found[1]).unwrap();
        assert!(!found[1].exists());
    }
}
