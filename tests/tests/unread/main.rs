//! Clients that ask for much and read none of it, or never finish asking.
//!
//! ```text
//!  60 connections, 250 lists each ──▶ control plane ◀── an administrator who works as ever
//!    no window, or one byte               │
//!    of it per answer                     └──▶ memory stays; each is ended with a reason
//!  10 connections, 250 requests each that lack their last bytes: the same
//! ```

#![cfg(test)]

mod hoard;
mod work;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::{ControlPlane, Deployment};
use loden_tests::wait;
use prost::Message;
use tonic::transport::Channel;

use crate::hoard::Hoard;
use crate::work::Work;

/// As many as one identity may have, nearly.
const CONNECTIONS: usize = 60;
/// As many as one connection may have, nearly.
const CALLS: usize = 250;
/// So many that one list of them is worth something.
const NETWORKS: usize = 500;
const HALVES: usize = 10;
/// Nearly the largest request.
const HALF: usize = 250 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// What a busy machine may take for a call of somebody else.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_and_requests_that_never_end_cost_little_and_the_others_nothing()
-> anyhow::Result<()> {
    let flags = ["--settle", "0s", "--heartbeat", "500ms", "--max-lag", "8s"];
    let deployment = Deployment::start("unread", &flags).await?;
    let control = &deployment.control;
    let identities = Identities::of(control, &deployment.lab.directory().join("identities"))?;
    let admin = control.channel(&identities.admin("operator")?).await?;
    for number in 0..NETWORKS {
        let name = format!("net-{number}-{}", "x".repeat(40));
        let pool = format!("10.{}.{}.0/17", number / 2, number % 2 * 128);
        client::create_network(&admin, &name, &pool, 24).await?;
    }
    let answer = list(&admin).await?;
    let process = control.process.as_ref().context("it does not run")?;
    let before = resident(process.pid())?;
    let work = Work::begin(admin);

    // A window that is shut leaves an answer with hyper, one of a byte leaves all the rest with h2.
    let began = Instant::now();
    let reader = identities.admin("hoarder")?;
    let mut hoards = Vec::new();
    for number in 0..CONNECTIONS {
        hoards.push(Hoard::of_answers(control, &reader, (number % 2) as u32, CALLS).await?);
    }
    let most = Cell::new(before);
    let ended = wait::until("all hoarders to be ended", PATIENCE, async || {
        work.check()?;
        most.set(most.get().max(resident(process.pid())?));
        let ended = metric(control, "loden_connections_ended_total{reason=\"slow\"}").await?;
        ensure!(ended == CONNECTIONS, "{ended} have been ended, resident {} KiB", most.get() >> 10);
        anyhow::Ok(())
    });
    ended.await?;
    let made: usize = hoards.iter().map(Hoard::begun).sum();
    let (growth, unbounded) = (most.get() - before, CONNECTIONS * CALLS * answer);
    println!(
        "{made} of {} answers of {answer} bytes made until all were ended, {:?}; resident {} KiB + {} KiB, all of them \
         are {} KiB",
        CONNECTIONS * CALLS,
        began.elapsed(),
        before >> 10,
        growth >> 10,
        unbounded >> 10
    );
    ensure!(made >= CONNECTIONS, "{made} answers: this proves little");
    ensure!(growth < unbounded / 5, "{growth} bytes of {unbounded}");
    process.wait_for_log("the client has not read for", PATIENCE).await?;
    for hoard in hoards {
        hoard.was_reset().await?;
    }
    wait::until("everything to be given back", PATIENCE, async || nothing_held(control).await).await?;

    let before = resident(process.pid())?;
    let mut hoards = Vec::new();
    for _ in 0..HALVES {
        hoards.push(Hoard::of_requests(control, &reader, HALF, CALLS).await?);
    }
    let most = Cell::new(before);
    let ended = wait::until("one of them to be ended", PATIENCE, async || {
        work.check()?;
        most.set(most.get().max(resident(process.pid())?));
        let ended = metric(control, "loden_connections_ended_total{reason=\"unread\"}").await?;
        ensure!(ended > 0, "none has been ended");
        anyhow::Ok(ended)
    });
    let ended = ended.await?;
    process.wait_for_log("MiB are held for clients that do not read", PATIENCE).await?;
    let (growth, unbounded) = (most.get().saturating_sub(before), HALVES * CALLS * HALF);
    println!(
        "{ended} ended for half requests; resident {} KiB + {} KiB, all of them are {} KiB",
        before >> 10,
        growth >> 10,
        unbounded >> 10
    );
    ensure!(growth < unbounded * 2 / 3, "{growth} bytes of {unbounded}");
    drop(hoards);
    wait::until("everything to be given back", PATIENCE, async || nothing_held(control).await).await?;

    let (calls, longest) = work.end().await?;
    println!("{calls} calls of somebody else, the longest took {longest:?}");
    ensure!(longest < PROMPT, "{longest:?}");
    Ok(())
}

/// Lists the networks on one page; answers how many bytes it has.
async fn list(admin: &Channel) -> anyhow::Result<usize> {
    let request = v1::ListNetworksRequest { page_size: 1000, page_token: String::new() };
    let page = NetworkServiceClient::new(admin.clone()).list_networks(request).await?.into_inner();
    ensure!(page.networks.len() == NETWORKS, "{} networks", page.networks.len());
    Ok(page.encoded_len())
}

async fn nothing_held(control: &ControlPlane) -> anyhow::Result<()> {
    // The call that is just under way.
    let held = metric(control, "loden_held_bytes").await?;
    ensure!(held < 64 << 10, "{held} bytes are held");
    Ok(())
}

async fn metric(control: &ControlPlane, name: &str) -> anyhow::Result<usize> {
    let (_, metrics) = control.get("/metrics").await?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.with_context(|| format!("no metric {name}"))
}

/// Memory of a process in bytes (proc(5), VmRSS).
fn resident(pid: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
