//! `AcquireLease` over mTLS from another process, and the store that it filled, opened again: as it is, and after
//! many more commits, most of whose history is not kept.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use loden_control_plane::ledger::Ledger;
use loden_control_plane::store::{Change, Options, SledStore, Store};

use super::super::metric::quantile;
use super::super::swarm::{Answer, Kind, Order, Swarm};
use super::super::usage::process_time;
use super::super::{Say, Scale, Series};
use crate::deployment::Deployment;

const CALLERS: usize = 256;
const LEASES: usize = 10_000;
/// Commits of a store with a long life.
const MORE: usize = 100_000;
/// Of those at once.
const AT_ONCE: usize = 512;
/// How long all leases of a run may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a control plane may take to end.
const END: Duration = Duration::from_secs(30);

/// The calls of all runs.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) per_second: Series,
    pub(super) p99: Series,
    /// CPU time of the control plane per lease.
    pub(super) cpu_micros: Series,
    /// CPU time of the callers per lease, which is taken from the same processors.
    pub(super) client_micros: Series,
}

/// The runs.
#[derive(Default)]
pub(super) struct Leases {
    pub(super) calls: Calls,
    pub(super) reopen: Series,
    /// After many more commits.
    pub(super) reopen_later: Series,
}

/// Each run is a control plane of its own with an empty store.
pub(super) async fn measure(scale: &Scale, say: &Say<'_>) -> anyhow::Result<Leases> {
    let mut all = Leases::default();
    for run in 0..scale.runs() {
        let mut deployment = Deployment::start("store", &[]).await?;
        let (leases, line) = acquire(&deployment, scale, &mut all.calls).await?;
        let process = deployment.control.process.take().context("the control plane runs")?;
        process.terminate()?;
        process.wait_exit(END).await?;
        let (store, more) = (deployment.control.state.join("store"), scale.count(MORE));
        let now = reopen(&store, leases).await?;
        commit(&store, more).await?;
        let later = reopen(&store, leases).await?;
        say(&format!(
            "run {} of {}: {line}; opened again in {now:.0} ms, in {later:.0} ms after {more} more commits",
            run + 1,
            scale.runs(),
        ));
        all.reopen.push(now);
        all.reopen_later.push(later);
    }
    Ok(all)
}

/// Has all callers acquire, of a control plane with an empty store; answers how many leases they got, and how fast in
/// words.
pub(super) async fn acquire(
    deployment: &Deployment,
    scale: &Scale,
    calls: &mut Calls,
) -> anyhow::Result<(usize, String)> {
    let program = std::env::current_exe()?;
    let (callers, leases) = (scale.count(CALLERS), scale.count(LEASES));
    let names: Vec<String> = (0..leases.div_ceil(callers)).map(|number| format!("net-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        deployment.create_network(name, &format!("10.{number}.0.0/16:26")).await?;
    }
    let server = deployment.control.process.as_ref().context("the control plane runs")?.pid();
    let mut swarm = Swarm::start(deployment, &program, Kind::Callers, callers).await?;
    swarm.order(&Order::Connect, LIMIT).await?;
    let (cpu, client) = (process_time(server)?, process_time(swarm.pid())?);
    let order = Order::Acquire { networks: names, leases };
    let Answer::Acquired { seconds, latencies } = swarm.order(&order, LIMIT).await? else {
        bail!("the swarm has answered something else");
    };
    let per_lease = |time: Duration| time.as_secs_f64() * 1e6 / leases as f64;
    calls.cpu_micros.push(per_lease(process_time(server)?.saturating_sub(cpu)));
    calls.client_micros.push(per_lease(process_time(swarm.pid())?.saturating_sub(client)));
    let (per_second, p99) = (leases as f64 / seconds, quantile(&latencies, 0.99).unwrap_or_default());
    calls.per_second.push(per_second);
    calls.p99.push(p99);
    Ok((leases, format!("{per_second:.0} leases/s, p99 {p99:.1} ms")))
}

/// Opens the store and makes a ledger of it, as a starting control plane does; in ms.
async fn reopen(directory: &Path, leases: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let store = SledStore::open(directory, Options::default()).await?;
    let ledger = Ledger::load(&store.load().await?)?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    ensure!(ledger.lease_count() == leases, "{} of {leases} leases were kept", ledger.lease_count());
    store.close().await;
    Ok(took)
}

/// Commits to a store that many times, each time one of its records as it is.
async fn commit(directory: &Path, times: usize) -> anyhow::Result<()> {
    let store = SledStore::open(directory, Options::default()).await?;
    let records = store.load().await?.records;
    let commits = records.iter().cycle().take(times).map(|record| {
        let (key, value) = (record.key.clone(), record.value.clone());
        store.commit(vec![Change::Put { key, value }], Vec::new())
    });
    stream::iter(commits).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    store.close().await;
    Ok(())
}
