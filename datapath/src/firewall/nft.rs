//! The packet filter by way of nft(8): one short-lived process per question or change.
//!
//! nft is what distributions keep in step with their kernels, and a file for it is one transaction.

use std::process::{Output, Stdio};
use std::time::Duration;
use std::{io, str};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::chains::Chain;
use super::insert::Edit;
use super::masquerade::TABLE;
use super::monitor::Monitor;
use super::{Firewall, FirewallError, FirewallHints, listing};

/// Where it is looked for: services do not always have the last two in their path.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// Some rule sets are large; none takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of what it says when it refuses, in characters: it repeats whole lines.
const SAID: usize = 200;
/// Hints that wait for a slow listener; more wait in the kernel.
const HINTS: usize = 64;

/// The packet filter of the network namespace that the calling thread is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nft;

impl Nft {
    async fn run(&mut self, arguments: &[&str], input: &str) -> Result<Output, FirewallError> {
        let mut child = start(arguments)?;
        let answer = async {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        Ok(timeout(PATIENCE, answer).await.map_err(|_| FirewallError::Silent)??)
    }

    async fn must(&mut self, arguments: &[&str], input: &str) -> Result<Vec<u8>, FirewallError> {
        let output = self.run(arguments, input).await?;
        if output.status.success() { Ok(output.stdout) } else { Err(refused(&output)) }
    }
}

fn start(arguments: &[&str]) -> Result<Child, FirewallError> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            child => return Ok(child?),
        }
    }
    Err(FirewallError::NoNft)
}

/// Its first line says what is wrong and where, the others repeat the input.
fn refused(output: &Output) -> FirewallError {
    let text = str::from_utf8(&output.stderr).unwrap_or_default();
    if text.contains("Protocol not supported") {
        return FirewallError::NoNftables;
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it does not say why");
    FirewallError::Refused(line.chars().take(SAID).collect())
}

fn is_missing(output: &Output) -> bool {
    !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("No such file or directory")
}

impl Firewall for Nft {
    async fn table(&mut self) -> Result<Option<String>, FirewallError> {
        let output = self.run(&["list", "table", "inet", TABLE], "").await?;
        if is_missing(&output) {
            return Ok(None);
        }
        if !output.status.success() {
            return Err(refused(&output));
        }
        let text = String::from_utf8(output.stdout);
        text.map(Some).map_err(|error| FirewallError::Unreadable(error.to_string()))
    }

    async fn replace(&mut self, table: Option<&str>) -> Result<(), FirewallError> {
        // Deleting what is not there would be refused.
        let text = table.unwrap_or_default();
        let input = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{text}");
        self.must(&["-f", "-"], &input).await.map(drop)
    }

    async fn others(&mut self) -> Result<Vec<Chain>, FirewallError> {
        let tables = listing::filtering(&self.must(&["-j", "list", "chains"], "").await?)?;
        let mut chains = Vec::new();
        for (family, table) in tables {
            let output = self.run(&["-j", "list", "table", &family, &table], "").await?;
            if output.status.success() {
                chains.extend(listing::chains(&output.stdout)?);
            } else if !is_missing(&output) {
                return Err(refused(&output));
            }
        }
        Ok(chains)
    }

    async fn edit(&mut self, edits: &[Edit]) -> Result<(), FirewallError> {
        let commands: Vec<_> = edits.iter().map(Edit::command).collect();
        self.must(&["-j", "-f", "-"], &json!({"nftables": commands}).to_string()).await.map(drop)
    }

    async fn hints(&mut self) -> Result<FirewallHints, FirewallError> {
        let monitor = Monitor::open()?;
        let (sender, hints) = mpsc::channel(HINTS);
        tokio::spawn(async move {
            if let Err(error) = monitor.run(sender).await {
                tracing::warn!(%error, "notifications of the packet filter have ended");
            }
        });
        Ok(hints)
    }
}
