//! What operators see of agents that do not get what they ask for: `lodenctl status` names each with its cause,
//! as long as it lasts.

#![cfg(test)]

mod copied;
mod refused;

use std::time::Duration;

use anyhow::ensure;
use loden_tests::deployment::Deployment;
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
const CONVERGED: &str = "Every node is converged.";

/// Waits until what `lodenctl status` prints has all of these parts and none of those; answers it.
async fn status(deployment: &Deployment, has: &[&str], lacks: &[&str]) -> anyhow::Result<String> {
    let what = format!("status to have {has:?} and not {lacks:?}");
    let seen = wait::until(&what, SOON, async || {
        let text = deployment.lodenctl(&["status"]).await?;
        let missing: Vec<_> = has.iter().filter(|part| !text.contains(**part)).collect();
        let there: Vec<_> = lacks.iter().filter(|part| text.contains(**part)).collect();
        ensure!(missing.is_empty() && there.is_empty(), "without {missing:?}, with {there:?}:\n{text}");
        anyhow::Ok(text)
    });
    Ok(seen.await?)
}

/// One line of a table, by the words that it begins with.
fn line<'a>(text: &'a str, begins: &[&str]) -> Option<&'a str> {
    text.lines().find(|line| line.split_whitespace().take(begins.len()).eq(begins.iter().copied()))
}
