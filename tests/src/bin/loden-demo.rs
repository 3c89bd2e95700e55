//! `make demo`: three hosts, one control plane, and what they go through.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use loden_tests::demo::backend::Backend;
use loden_tests::demo::{page, story, text};

/// Runs a real network on hosts made of network namespaces, and shows what happened.
///
/// Exit codes: 0 all went as promised, 1 something did not or could not be done, 2 bad usage,
/// 130 interrupted. Nothing stays behind, whichever it is.
#[derive(Debug, Parser)]
#[command(name = "loden-demo", version)]
struct Flags {
    /// How packets get from host to host.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,

    /// Where to write the page.
    #[arg(long, default_value = "target/demo/report.html")]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    run(&Flags::parse()).await.unwrap_or_else(|error| {
        eprintln!("loden-demo: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let say = move |what: &str| {
        // A closed terminal is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{:6.1} s  {what}", begin.elapsed().as_secs_f64());
    };
    writable(&flags.report).with_context(|| format!("--report {:?} cannot be written", flags.report))?;
    let interrupted = loden_process::signals::interruption().context("could not listen for signals")?;
    let report = tokio::select! {
        report = story::run(flags.backend, &say) => report?,
        signal = interrupted => {
            say(&format!("{signal}: everything is removed"));
            return Ok(ExitCode::from(130));
        }
    };
    std::fs::write(&flags.report, page::render(&report))
        .with_context(|| format!("could not write {}", flags.report.display()))?;
    // A closed terminal is no reason to fail either.
    let _ = writeln!(std::io::stdout(), "{}", text::render(&report));
    say(&format!("report: {}", flags.report.display()));
    let promised = report.outcomes.iter().all(|outcome| outcome.good);
    let reached = report.pairs.iter().all(|pair| pair.lost == 0 && pair.tcp > 0.0);
    let alike = report.compared.iter().all(|backend| backend.lost == 0 && backend.tcp > 0.0);
    if !(promised && reached && alike) {
        bail!("not everything went as promised");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a file can be written later: makes its folder, and leaves no file behind.
fn writable(file: &Path) -> std::io::Result<()> {
    if file.exists() {
        return std::fs::File::options().append(true).open(file).map(drop);
    }
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    tempfile::tempfile_in(folder).map(drop)
}
