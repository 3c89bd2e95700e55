//! A wall clock of one process alone, which jumps while the machine's stays (libfaketime).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

/// The dynamic linker puts the machine's folder of libraries in the place of `$LIB`.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
/// Where that library leaves two files for each process that is killed.
const SHARED: &str = "/dev/shm";

/// A clock for every life of one process. Dropping it removes what those have left behind.
#[derive(Debug)]
pub(super) struct Clock {
    file: PathBuf,
    processes: Vec<u32>,
}

impl Clock {
    /// One that is right; its file is in `directory`.
    pub(super) fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let clock = Self { file: directory.join(format!("clock-{name}")), processes: Vec::new() };
        clock.jump(0)?;
        Ok(clock)
    }

    /// What makes a process go by it.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let file = self.file.display().to_string();
        let variables = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            // Looks at the file whenever it is asked for the time.
            ("FAKETIME_NO_CACHE", "1"),
            // Time-outs are by the monotonic clock, which nobody can set on a machine either.
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Makes it wrong by so many seconds from now on; 0 makes it right.
    pub(super) fn jump(&self, seconds: i64) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        let set = fs::write(&new, format!("{seconds:+}")).and_then(|()| fs::rename(&new, &self.file));
        set.with_context(|| format!("could not set {}", self.file.display()))
    }

    /// Notes a process that goes by it.
    pub(super) fn started(&mut self, process: u32) {
        self.processes.push(process);
    }

    /// Shows with a process of its own that a jump is seen: a library that is not there is only warned of.
    pub(super) fn works(directory: &Path) -> anyhow::Result<()> {
        const AHEAD: u64 = 3600;
        let clock = Self::new(directory, "trial")?;
        clock.jump(AHEAD.cast_signed())?;
        let mut command = Command::new("date");
        let output = command.arg("+%s").envs(clock.environment()).output().context("could not run date")?;
        let told: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let wrong = Duration::from_secs(told).saturating_sub(now);
        ensure!(wrong.as_secs() > AHEAD / 2, "{LIBRARY} does not work: a clock is wrong by {wrong:?}");
        Ok(())
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for process in &self.processes {
            for name in ["faketime_shm", "sem.faketime_sem"] {
                // A process that has ended by itself has removed its own.
                let _ = fs::remove_file(Path::new(SHARED).join(format!("{name}_{process}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        Clock::works(directory.path()).unwrap();
    }
}
