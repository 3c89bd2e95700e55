//! Benchmarks: what is measured, against what, and how it is told.
//!
//! ```text
//!  loden-bench ─▶ Bench::run(scale) ─▶ Vec<Metric> ─▶ Report ─┬▶ table for people
//!                    │                                        └▶ target/bench/NAME.json
//!                    └─ run 1, run 2, …: ours and the baseline by turns ─▶ Series (median, min, max)
//! ```
//!
//! Both sides of a comparison are measured in the same run, never read from a file. A ratio
//! above 1 always means that we are better.

mod by_hand;
mod carry;
mod chaos;
mod datapath;
mod fanout;
mod identity;
mod metric;
mod report;
mod scale;
mod store;
pub mod swarm;
mod throughput;
mod tunnel;
mod usage;

use std::fmt::Write;

use anyhow::Context;
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use metric::{Better, Metric, NoRuns, Series};
pub use report::{Machine, Report};
pub use scale::Scale;

/// One benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Bench {
    /// TCP, round trips and small UDP packets between containers, by path
    Throughput,
    /// The UDP tunnel beside kernel VXLAN and one packet for each system call
    Tunnel,
    /// Durable leases and commits, and opening the store again
    Store,
    /// Thousands of peers in the kernel, one more, and putting back what is taken away
    Datapath,
    /// A fleet on one control plane: joining, changes, coming back
    Fanout,
    /// Joining with a token, and being out at once
    Identity,
    /// Three replicas, etcd, haproxy and a fleet while everything goes wrong
    Chaos,
}

impl Bench {
    /// All of them, in the order in which they run.
    pub const ALL: &[Self] = &[
        Self::Throughput,
        Self::Tunnel,
        Self::Datapath,
        Self::Store,
        Self::Fanout,
        Self::Identity,
        Self::Chaos,
    ];

    /// As on the command line and in the name of the result's file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Tunnel => "tunnel",
            Self::Datapath => "datapath",
            Self::Store => "store",
            Self::Fanout => "fanout",
            Self::Identity => "identity",
            Self::Chaos => "chaos",
        }
    }

    /// Measures. `say` is told what is going on.
    ///
    /// # Errors
    /// When something could not be set up or measured. There are no partial results.
    pub async fn run(self, scale: &Scale, say: &Say<'_>) -> anyhow::Result<Vec<Metric>> {
        match self {
            Self::Throughput => throughput::run(scale, say).await,
            Self::Tunnel => tunnel::run(scale, say).await,
            Self::Datapath => datapath::run(scale, say).await,
            Self::Store => store::run(scale, say).await,
            Self::Fanout => fanout::run(scale, say).await,
            Self::Identity => identity::run(scale, say).await,
            Self::Chaos => chaos::run(scale, say).await,
        }
    }
}

/// Takes one line about what is going on.
pub type Say<'a> = dyn Fn(&str) + Sync + 'a;

/// Raises the limit of open files as far as it goes: a thousand streams are a thousand
/// descriptors, here and in the programs started from here.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("could not raise the limit of open files")
}

/// What `--list` prints.
#[must_use]
pub fn list() -> String {
    let mut text = String::new();
    for bench in Bench::ALL {
        let about = bench.to_possible_value().and_then(|value| Some(value.get_help()?.to_string()));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:12} {}", bench.name(), about.unwrap_or_default());
    }
    text
}
