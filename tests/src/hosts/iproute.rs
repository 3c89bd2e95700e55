//! iproute2: a foreign hand, and what baselines are made with.

use std::path::Path;
use std::process::Command;

use super::{Error, Namespace, error::Doing};

impl Namespace {
    /// Runs one command of iproute2 in the namespace: `ip link set eth0 down`.
    pub async fn iproute(&self, line: &str) -> Result<(), Error> {
        let what = || format!("run {line} in {}", self.full_name());
        let mut words = line.split_ascii_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        let namespace = self.clone();
        let run = tokio::task::spawn_blocking(move || namespace.enter(|| command.output()));
        let output = run.await.doing(what)?.doing(what)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::new(what(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// Has `ip` or `bridge` run all lines of a file in the namespace.
    pub async fn iproute_batch(&self, program: &str, file: &Path) -> Result<(), Error> {
        self.iproute(&format!("{program} -batch {}", file.display())).await
    }
}
