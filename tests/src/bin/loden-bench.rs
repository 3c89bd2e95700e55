//! `make bench`: measures, prints a table, and writes `target/bench/NAME.json`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use loden_tests::bench::swarm::{self, SwarmArgs};
use loden_tests::bench::{self, Bench, Machine, Report, Scale};
use tikv_jemallocator::Jemalloc;

/// As in the programs that are measured: a swarm takes its time from the same processors as the server.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Measures Loden on this machine, each thing beside what it is compared with.
///
/// Needs root: hosts are network namespaces. Nothing stays behind but the results. Exit codes:
/// 0 everything was measured, 1 something could not be, 2 bad usage, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "loden-bench", version, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    /// What to measure; all of it if nothing is named
    #[arg(value_name = "NAME")]
    benches: Vec<Bench>,
    /// Name the benchmarks and end
    #[arg(long)]
    list: bool,
    /// Few short runs, to see that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Whole agents of `fanout`
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=10_000))]
    agents: Option<u16>,
    /// Followers of `fanout`, and watchers of etcd beside them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=15_000))]
    followers: Option<u16>,
    /// Where to write the results
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

/// What the program starts itself again for.
#[derive(Debug, Subcommand)]
enum Part {
    /// Many clients, for a benchmark
    #[command(name = swarm::SUBCOMMAND, hide = true)]
    Swarm(SwarmArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if flags.list {
        print!("{}", bench::list());
        return Ok(ExitCode::SUCCESS);
    }
    bench::raise_descriptor_limit()?;
    let runtime = tokio::runtime::Runtime::new()?;
    match flags.part {
        Some(Part::Swarm(args)) => runtime.block_on(swarm::run_program(args)).map(|()| ExitCode::SUCCESS),
        None => runtime.block_on(measure(flags)),
    }
}

async fn measure(flags: Flags) -> anyhow::Result<ExitCode> {
    let mut scale = if flags.quick { Scale::quick() } else { Scale::full() };
    if let Some(agents) = flags.agents {
        scale.agents = agents.into();
    }
    if let Some(followers) = flags.followers {
        scale.followers = followers.into();
    }
    let begin = Instant::now();
    let say = move |what: &str| {
        // A closed terminal is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{:6.1} s  {what}", begin.elapsed().as_secs_f64());
    };
    let interrupted = loden_process::signals::interruption().context("could not listen for signals")?;
    let all = async {
        let benches = if flags.benches.is_empty() { Bench::ALL } else { &flags.benches };
        for bench in benches {
            say(bench.name());
            let metrics = bench.run(&scale, &say).await.with_context(|| bench.name())?;
            ensure!(!metrics.is_empty(), "{}: nothing was measured", bench.name());
            let report = Report { bench: bench.name().to_owned(), machine: Machine::this(), metrics };
            let path = report.write(&flags.out)?;
            println!("{}", report.table());
            say(&format!("{} is written", path.display()));
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = all => result.map(|()| ExitCode::SUCCESS),
        signal = interrupted => {
            say(&format!("{signal}: everything is removed"));
            Ok(ExitCode::from(130))
        }
    }
}
