//! What a lab has taken from the machine, written down before it is taken, so that a later
//! run can give back what a killed one left behind.
//!
//! ```text
//! /run/loden-lab/PID-START-N/            the name says whose it is: pid and start time of its owner
//!     directory -> TMP/loden-lab-PID-START-N   logs and state
//!     process-PID-START                        one per running process
//! /run/netns/loden-PID-START-N-NAME      its namespaces, and of the same names:
//! /sys/fs/cgroup/…                       control groups that runtimes made for its pods
//! ```
//! Nothing is removed of an owner that is alive. The record itself goes last.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroups,
    error::{Doing, Error},
};

const RECORDS: &str = "/run/loden-lab";
/// How long processes that were killed may still write files.
const LAST_FILES: Duration = Duration::from_secs(1);
/// Where named network namespaces live, for iproute2 and for us.
pub(crate) const NAMESPACES: &str = "/run/netns";

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Start time, in clock ticks since boot (proc(5), field 22 of `stat`).
    start: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` if there is none or it is dead and not yet reaped.
    pub(crate) fn running(pid: u32) -> Option<Self> {
        parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    pub(crate) fn is_running(self) -> bool {
        Self::running(self.pid) == Some(self)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.pid, self.start)
    }
}

/// Reads `PID-START`.
fn parse_process_id(text: &str) -> Option<ProcessId> {
    let (pid, start) = text.split_once('-')?;
    Some(ProcessId { pid: pid.parse().ok()?, start: u64::from_str_radix(start, 16).ok()? })
}

/// The command name may hold spaces and parentheses, so fields are counted after the last one.
fn parse_stat(pid: u32, stat: &str) -> Option<ProcessId> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // State is field 3, start time field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some(ProcessId { pid, start })
}

/// One lab's record.
#[derive(Debug)]
pub(crate) struct Record {
    id: String,
    record: PathBuf,
    directory: PathBuf,
}

impl Record {
    /// Opens a record for a new lab of this process.
    pub(crate) fn create() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let owner = ProcessId::running(pid)
            .ok_or_else(|| Error::new("read /proc/self/stat", io::Error::from(io::ErrorKind::NotFound)))?;
        let record = Self::at(&format!("{owner}-{}", NEXT.fetch_add(1, Ordering::Relaxed)), None);
        enter(Path::new(RECORDS), &record.record)
            .doing(|| format!("create {} (a lab needs root)", record.record.display()))?;
        std::os::unix::fs::symlink(&record.directory, record.record.join("directory"))
            .and_then(|()| fs::create_dir(&record.directory))
            .doing(|| format!("create {}", record.directory.display()))?;
        Ok(record)
    }

    fn at(id: &str, directory: Option<PathBuf>) -> Self {
        let directory = directory.unwrap_or_else(|| std::env::temp_dir().join(directory_name(id)));
        Self { id: id.to_owned(), record: Path::new(RECORDS).join(id), directory }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name in `/run/netns` of the lab's namespace `name`.
    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("loden-{}-{name}", self.id)
    }

    pub(crate) fn process_started(&self, process: ProcessId) -> io::Result<()> {
        fs::write(self.record.join(format!("process-{process}")), "")
    }

    /// A record that is gone already has nothing more to forget.
    pub(crate) fn process_ended(&self, process: ProcessId) {
        let _ = fs::remove_file(self.record.join(format!("process-{process}")));
    }

    /// Gives everything back. What is gone already is done; the first failure is reported
    /// after everything else was tried.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let failures: Vec<Error> = [
            self.kill_processes(),
            self.remove_namespaces(),
            cgroups::remove(&self.namespace(""))
                .doing(|| format!("remove the control groups of {}", self.id)),
            absent_is_done(remove_directory(&self.directory))
                .doing(|| format!("remove {}", self.directory.display())),
        ]
        .into_iter()
        .filter_map(Result::err)
        .collect();
        if let Some(first) = failures.into_iter().next() {
            return Err(first);
        }
        leave(Path::new(RECORDS), &self.record).doing(|| format!("remove {}", self.record.display()))
    }

    fn kill_processes(&self) -> Result<(), Error> {
        for name in names(&self.record).doing(|| format!("list {}", self.record.display()))? {
            let Some(process) = name.strip_prefix("process-").and_then(parse_process_id) else {
                continue;
            };
            if process.is_running() {
                match kill(Pid::from_raw(process.pid.cast_signed()), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(Error::new(format!("kill {}", process.pid), error)),
                }
            }
        }
        Ok(())
    }

    fn remove_namespaces(&self) -> Result<(), Error> {
        let prefix = self.namespace("");
        for name in names(Path::new(NAMESPACES)).doing(|| format!("list {NAMESPACES}"))? {
            if name.starts_with(&prefix) {
                remove_namespace(&name).doing(|| format!("remove namespace {name}"))?;
            }
        }
        Ok(())
    }

    /// Gives back what dead owners left behind; answers the ids of their labs.
    pub(crate) fn sweep() -> Result<Vec<String>, Error> {
        let mut swept = Vec::new();
        for id in names(Path::new(RECORDS)).doing(|| format!("list {RECORDS}"))? {
            let Some(owner) = id.rsplit_once('-').and_then(|(owner, _)| parse_process_id(owner)) else {
                continue;
            };
            if owner.is_running() {
                continue;
            }
            let directory = fs::read_link(Path::new(RECORDS).join(&id).join("directory"))
                .ok()
                .filter(|path| path.file_name().is_some_and(|name| *name == *directory_name(&id)));
            Self::at(&id, directory).remove()?;
            swept.push(id);
        }
        Ok(swept)
    }
}

/// Makes a record, and the folder of all records where it is missing. The last lab that ends takes that folder
/// with it, at any moment.
fn enter(records: &Path, record: &Path) -> io::Result<()> {
    loop {
        match fs::create_dir(records) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match fs::create_dir(record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
}

/// Removes a record, and the folder of all records when it was the last one.
fn leave(records: &Path, record: &Path) -> io::Result<()> {
    absent_is_done(fs::remove_dir_all(record))?;
    match fs::remove_dir(records) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => absent_is_done(done),
    }
}

fn directory_name(id: &str) -> String {
    format!("loden-lab-{id}")
}

/// Takes away a namespace's name. The namespace itself ends with its last process and descriptor.
pub(crate) fn remove_namespace(name: &str) -> io::Result<()> {
    let path = Path::new(NAMESPACES).join(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file that nothing is mounted on, left by a run killed in between.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    absent_is_done(fs::remove_file(path))
}

/// A process that was just killed may write its last file meanwhile.
fn remove_directory(directory: &Path) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match fs::remove_dir_all(directory) {
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty && begin.elapsed() < LAST_FILES =>
            {
                thread::yield_now();
            }
            done => return done,
        }
    }
}

fn absent_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a directory; none if there is no such directory.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse_stat(7, stat), Some(ProcessId { pid: 7, start: 4711 }));
    }

    #[test]
    fn a_zombie_is_not_running() {
        let stat = "7 (a) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse_stat(7, stat), None);
    }

    #[test]
    fn a_process_id_survives_the_round_trip_through_a_file_name() {
        let me = ProcessId::running(std::process::id()).unwrap();
        assert_eq!(parse_process_id(&me.to_string()), Some(me));
        assert!(me.is_running());
    }

    #[test]
    fn the_folder_of_all_records_goes_with_the_last_one_and_comes_with_the_next() {
        let root = tempfile::tempdir().unwrap();
        let records = root.path().join("records");
        thread::scope(|scope| {
            for lab in ["a", "b", "c", "d"].map(|name| records.join(name)) {
                let records = &records;
                scope.spawn(move || {
                    for _ in 0..500 {
                        enter(records, &lab).unwrap();
                        assert!(lab.is_dir());
                        leave(records, &lab).unwrap();
                    }
                });
            }
        });
        assert!(!records.exists());
    }

    #[test]
    fn the_same_pid_with_another_start_is_another_process() {
        let me = ProcessId::running(std::process::id()).unwrap();
        assert!(!ProcessId { start: me.start + 1, ..me }.is_running());
    }
}
