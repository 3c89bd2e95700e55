//! iproute2: what the baselines are made with.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::hosts::Namespace;

/// Runs one command of iproute2 in a namespace.
pub(super) async fn iproute(namespace: &Namespace, line: &str) -> anyhow::Result<()> {
    let mut words = line.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let namespace = namespace.clone();
    let output = tokio::task::spawn_blocking(move || namespace.enter(|| command.output())).await?;
    let output = output.with_context(|| format!("could not run {line}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}", said.trim());
    Ok(())
}

/// Has `ip` or `bridge` run all lines of a file in a namespace.
pub(super) async fn batch(namespace: &Namespace, program: &str, file: &Path) -> anyhow::Result<()> {
    let file = file.to_str().context("the path of the lab is no text")?;
    iproute(namespace, &format!("{program} -batch {file}")).await
}
