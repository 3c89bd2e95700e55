//! Clients that open watches and then read nothing, while thousands of changes go by.
//!
//! ```text
//!  writers ── an address a time ──▶ control plane ──▶ readers: each change, in order, in time
//!                                        │
//!                                        ├──▶ stuck: a node that leaves its stream unread, and
//!                                        └──▶ two observers, 100 watches each, that leave their sockets unread
//!                                             memory stays; ended with a reason
//! ```
//!
//! A stream that is left unread ends its connection after `--max-lag`. A socket that is left unread answers
//! no pings either; whichever is noticed first ends it.

#![cfg(test)]

mod flow;
mod gate;
mod reading;
mod stuck;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loden_proto::v1;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client::{self, Identities};
use loden_tests::deployment::Deployment;
use loden_tests::wait;

use crate::flow::{Flow, latency};
use crate::stuck::{Stuck, Unread};

const NETWORK: &str = "blue";
const WRITERS: u16 = 40;
/// Addresses of each writer, one after the other.
const ADDRESSES: u16 = 1500;
/// Between two changes of one writer.
const PACE: Duration = Duration::from_millis(40);
const READERS: usize = 3;
const OBSERVERS: usize = 2;
const WATCHES: usize = 100;
/// Before anybody is stuck.
const CALM: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes come together for at most a second; the rest is a busy machine's.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_ended_with_a_reason_and_costs_the_others_nothing()
-> anyhow::Result<()> {
    let flags = ["--settle", "0s", "--heartbeat", "500ms", "--max-lag", "8s"];
    let deployment = Deployment::start("slow", &flags).await?;
    let control = &deployment.control;
    let identities = Identities::of(control, &deployment.lab.directory().join("identities"))?;
    let admin_identity = identities.admin("operator")?;
    let admin = control.channel(&admin_identity).await?;
    client::create_network(&admin, NETWORK, "10.1.0.0/16", 24).await?;
    let stuck_node = identities.node("stuck")?;
    client::acquire(&control.channel(&stuck_node).await?, NETWORK, 99, client::endpoint(60_000)).await?;
    let process = control.process.as_ref().context("it does not run")?;

    let flow = Flow::begin(&deployment, &identities).await?;
    tokio::time::sleep(CALM).await;
    let (calm_changes, calm_bytes, before) = (flow.changes(), flow.received(), resident(process.pid())?);

    let began = Instant::now();
    let mut stuck = Vec::new();
    for _ in 0..OBSERVERS {
        stuck.push(Stuck::open(&deployment, &admin_identity, "", WATCHES, Unread::Socket).await?);
    }
    let instance = format!("{:032x}", 99);
    stuck.push(Stuck::open(&deployment, &stuck_node, &instance, 1, Unread::Stream).await?);
    let most = Cell::new(before);
    let ended = wait::until("all stuck clients to be ended", PATIENCE, async || {
        flow.check()?;
        most.set(most.get().max(resident(process.pid())?));
        let (_, metrics) = control.get("/metrics").await?;
        let ended = ended(&metrics);
        ensure!(ended.0 + ended.1 == stuck.len(), "{ended:?} of {} have been ended", stuck.len());
        anyhow::Ok(ended)
    });
    let (slow, silent) = ended.await?;
    ensure!(slow > 0, "none was ended for leaving its stream unread");
    let took = began.elapsed();
    let (changes, bytes) = (flow.changes() - calm_changes, flow.received() - calm_bytes);

    // What each of them would have cost if what it does not read were kept for it.
    let unbounded = bytes * (OBSERVERS * WATCHES + 1);
    let growth = most.get().saturating_sub(before);
    println!(
        "{calm_changes} changes in peace, {changes} beside {} stuck watches until all were ended ({slow} slow, \
         {silent} silent) in {took:?}; resident {} KiB + {} KiB, a queue for each would hold {} KiB",
        OBSERVERS * WATCHES + 1,
        before >> 10,
        growth >> 10,
        unbounded >> 10
    );
    ensure!(changes > 2000, "only {changes} changes: this proves little");
    ensure!(growth < unbounded / 3, "{growth} bytes of {unbounded}");

    let node = v1::GetNodeRequest { name: "nodes/stuck".to_owned() };
    let node = NodeServiceClient::new(admin.clone()).get_node(node).await?.into_inner();
    ensure!(!node.connected && node.disconnect_reason.starts_with("the client has not read for"), "{node:?}");
    process.wait_for_log("the client has not read for", PATIENCE).await?;
    for client in stuck {
        client.was_reset().await?;
    }

    let seen = flow.end(&admin).await?;
    let calm = latency(&seen, |at| at < began);
    let busy = latency(&seen, |at| at >= began);
    println!("a change reached a reader within (median, 99 %, longest): {calm:?}, then {busy:?}");
    ensure!(calm.2 < PROMPT && busy.2 < PROMPT, "{calm:?}, {busy:?}");
    // Nobody waits for those who do not read.
    ensure!(busy.1 < (calm.1 * 4).max(Duration::from_millis(900)), "{calm:?}, {busy:?}");
    Ok(())
}

/// How many connections were ended for leaving a stream unread, and for not answering.
fn ended(metrics: &str) -> (usize, usize) {
    let of = |reason: &str| {
        let name = format!("loden_connections_ended_total{{reason=\"{reason}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
        value.unwrap_or_default()
    };
    (of("slow"), of("silent"))
}

/// Memory of a process in bytes (proc(5), VmRSS).
fn resident(pid: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
