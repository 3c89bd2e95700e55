//! A host with directories and processes of its own, for daemons that expect to be alone on a machine.
//!
//! ```text
//!  host (network) ─▶ cell: mounts (/run, /var/lib), processes, names ─▶ containerd ─▶ pods
//! ```
//! All of its processes end with its first one, whatever ends that.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use loden_tests::hosts::{Host, Process};

use crate::SOON;

/// What the first process does: it says that all is there, and stays.
const FIRST: &str = "set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755,size=512m tmpfs /var/lib
mkdir /run/netns
echo ready
exec sleep infinity";

/// A cell on a host.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Seen from outside.
    first: u32,
    _unshared: Process,
}

impl Cell {
    /// Makes one.
    pub(crate) async fn start(host: &Host) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        command.args(["sh", "-c", FIRST]);
        let unshared = host.spawn("cell", command)?;
        unshared.wait_for_log("ready", SOON).await?;
        let pid = unshared.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let first = children.trim().parse().with_context(|| format!("the cell's processes: {children:?}"))?;
        Ok(Self { first, _unshared: unshared })
    }

    /// A program inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid"]);
        command.args(["--", program]);
        command
    }

    /// Runs a program inside to its end; answers what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(program).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?} ended with {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The names in a folder inside; none if it is not there.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        // What the first process sees, from outside.
        let root = Path::new("/proc").join(self.first.to_string()).join("root");
        let entries = fs::read_dir(root.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
