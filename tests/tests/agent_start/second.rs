//! A second agent in one network namespace would undo what the first one does.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{SOON, deployment};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_a_host_is_refused_and_the_first_goes_on() -> anyhow::Result<()> {
    let deployment = deployment("second").await?;
    deployment.create_network("blue", "10.8.0.0/16").await?;
    let mut first = deployment.add_node("a", 11, &[]).await?;
    first.ready(SOON).await?;
    let pid = first.process.as_ref().context("the agent runs")?.pid();

    let elsewhere = first.home.join("second");
    fs::create_dir_all(&elsewhere)?;
    let (program, identity) = (first.command().get_program().to_owned(), first.home.join("identity"));
    let second = || {
        let mut command = Command::new(&program);
        command.args(["--server", "192.0.2.1", "--network", "blue", "--operations", "127.0.0.1:7482"]);
        command.arg("--identity").arg(&identity);
        for (flag, place) in [
            ("--state-dir", "state"),
            ("--subnet-file", "subnet.env"),
            ("--cni-config-dir", "net.d"),
            ("--socket", "agent.sock"),
        ] {
            command.arg(flag).arg(elsewhere.join(place));
        }
        command
    };
    // As often as a service manager may try.
    for _ in 0..3 {
        let refused = first.host.spawn("second", second())?;
        let status = refused.wait_exit(SOON).await?;
        let said = refused.log().tail();
        ensure!(status.code() == Some(1), "{status}: {said}");
        ensure!(said.contains(&format!("an agent runs, process {pid} of user 0, in this network")), "{said}");
    }
    ensure!(!elsewhere.join("state").exists() && first.host.link("loden2a").await.is_err());
    first.ready(Duration::from_secs(1)).await?;

    // Whoever is killed is in nobody's way.
    first.kill9().await?;
    let taking_over = first.host.spawn("second", second())?;
    taking_over.wait_for_log("agent started", SOON).await?;
    Ok(())
}
