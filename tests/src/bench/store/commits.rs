//! `Store::commit` by 256 tasks at once, and the plainest durable log beside it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use loden_control_plane::store::{Change, Guard, Options, SledStore, Store};
use tokio::task::JoinSet;

use super::super::usage::process_time;
use super::super::{Say, Scale, Series};

const CALLERS: usize = 256;
/// As long as the records of one lease: the lease, its slot, its expiry.
const RECORDS: [(&str, usize); 3] = [("lease", 320), ("slot", 48), ("expiry", 28)];

/// The runs.
#[derive(Default)]
pub(super) struct Commits {
    pub(super) per_second: Series,
    /// CPU time of this process per commit, the callers' part in it.
    pub(super) cpu_micros: Series,
    pub(super) one_by_one: Series,
}

pub(super) async fn measure(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Commits> {
    let mut commits = Commits::default();
    for run in 0..scale.runs() {
        // Both on the same disk, each run in a directory of its own.
        let directory = tempfile::tempdir()?;
        let (ours, cpu) = grouped(&directory.path().join("store"), scale.slice()).await?;
        let log = directory.path().join("log");
        let slice = scale.slice();
        let theirs = tokio::task::spawn_blocking(move || one_by_one(&log, slice)).await??;
        say(&format!("run {} of {}: {ours:.0} commits/s; one by one {theirs:.0}/s", run + 1, scale.runs()));
        commits.per_second.push(ours);
        commits.cpu_micros.push(cpu);
        commits.one_by_one.push(theirs);
    }
    Ok(commits)
}

/// Commits per second, and CPU µs per commit.
async fn grouped(directory: &Path, time: Duration) -> anyhow::Result<(f64, f64)> {
    let store = Arc::new(SledStore::open(directory, Options::default()).await?);
    let cpu = process_time(std::process::id())?;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut made = 0_u64;
            while begin.elapsed() < time {
                let (changes, guards) = lease(caller, made);
                store.commit(changes, guards).await?;
                made += 1;
            }
            anyhow::Ok(made)
        });
    }
    let mut made = 0;
    while let Some(task) = tasks.join_next().await {
        made += task??;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = process_time(std::process::id())?.saturating_sub(cpu).as_secs_f64();
    let store = Arc::into_inner(store).context("the callers have let go of the store")?;
    store.close().await;
    Ok((made as f64 / elapsed, cpu * 1e6 / made as f64))
}

/// What a new lease writes: three records that nobody may have.
fn lease(caller: usize, number: u64) -> (Vec<Change>, Vec<Guard>) {
    let records = RECORDS.map(|(kind, length)| {
        let key: loden_control_plane::store::Key =
            format!("{kind}/default/node-{caller:03}-{number:08}").into();
        (key, Bytes::from(vec![b'x'; length]))
    });
    let guards = records.iter().map(|(key, _)| Guard::Absent(key.clone())).collect();
    (records.into_iter().map(|(key, value)| Change::Put { key, value }).collect(), guards)
}

/// The same bytes, one record after the other: records per second.
fn one_by_one(path: &Path, time: Duration) -> anyhow::Result<f64> {
    let mut log = File::options().create_new(true).append(true).open(path)?;
    let begin = Instant::now();
    let mut made = 0_u64;
    while begin.elapsed() < time {
        let (changes, _) = lease(0, made);
        let mut record = Vec::new();
        for change in &changes {
            record.extend_from_slice(change.key().as_str().as_bytes());
            if let Change::Put { value, .. } = change {
                record.extend_from_slice(value);
            }
        }
        log.write_all(&record)?;
        log.sync_data()?;
        made += 1;
    }
    Ok(made as f64 / begin.elapsed().as_secs_f64())
}
