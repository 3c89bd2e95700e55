//! The demo goes as promised with every backend, and leaves nothing behind, however and whenever it ends.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use loden_tests::hosts::Lab;
use loden_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loden-demo");

/// Lines of the story, each told before the step itself.
const BEGINS: &str = "control plane:";
const HOSTS_START: &str = "hosts a, b, c";
const TRAFFIC_FLOWS: &str = "all pairs";
/// How long what was killed may take to be gone.
const GONE: Duration = Duration::from_secs(20);

#[test]
fn a_demo_that_is_interrupted_as_it_begins_removes_everything_itself() {
    interrupted(BEGINS, Signal::SIGINT);
}

#[test]
fn a_demo_that_is_interrupted_as_hosts_start_removes_everything_itself() {
    interrupted(HOSTS_START, Signal::SIGTERM);
}

#[test]
fn a_demo_whose_terminal_is_closed_as_traffic_flows_removes_everything_itself() {
    interrupted(TRAFFIC_FLOWS, Signal::SIGHUP);
}

#[tokio::test]
async fn what_a_demo_left_that_was_killed_as_hosts_start_goes_with_the_next_lab() {
    killed(HOSTS_START).await;
}

#[tokio::test]
async fn what_a_demo_left_that_was_killed_as_traffic_flows_goes_with_the_next_lab() {
    killed(TRAFFIC_FLOWS).await;
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for report in [folder.path().to_owned(), file.join("report.html"), "/proc/nowhere/report.html".into()] {
        let output = Command::new(PROGRAM).arg("--report").arg(&report).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--report") && said.contains(report.to_str().unwrap()), "{said}");
        assert_eq!(output.stdout, b"", "it began");
    }
    assert_eq!(names(folder.path(), ""), ["file"]);
}

/// The default is what everybody runs by hand.
#[test]
fn the_story_with_host_gw_goes_as_promised() {
    goes_as_promised("host-gw");
}

#[test]
fn the_story_with_udp_goes_as_promised() {
    goes_as_promised("udp");
}

/// The whole story to its end, with the comparison of all backends.
fn goes_as_promised(backend: &str) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let output = Command::new(PROGRAM)
        .args(["--backend", backend, "--report"])
        .arg(&report)
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(report).unwrap();
    for name in ["vxlan", "host-gw", "udp"] {
        let row = format!("\n {name} ");
        assert!(told.contains(&row) && page.contains(&format!("<td>{name}</td>")), "{name}: {told}");
    }
}

fn interrupted(line: &str, signal: Signal) {
    let mut demo = Demo::start(line);
    demo.has_made_something();
    let processes = demo.processes();
    demo.signal(signal);
    assert_eq!(demo.child.wait().unwrap().code(), Some(130));
    assert_eq!(demo.remains(), Vec::<String>::new());
    assert_eq!(running(&processes), Vec::<Process>::new());
}

async fn killed(line: &str) {
    let mut demo = Demo::start(line);
    demo.has_made_something();
    let processes = demo.processes();
    demo.signal(Signal::SIGKILL);
    demo.child.wait().unwrap();
    // The kernel ends what it has started: nobody else has to.
    let ended = wait::until("its processes to end", GONE, async || match running(&processes) {
        running if running.is_empty() => Ok(()),
        running => Err(format!("{running:?}")),
    });
    ended.await.unwrap();
    // Another test's lab may be at it already.
    Lab::sweep().unwrap();
    let removed = wait::until("everything to be removed", GONE, async || match demo.remains() {
        remains if remains.is_empty() => Ok(()),
        remains => Err(format!("{remains:?}")),
    });
    removed.await.unwrap();
}

/// A process id, and when that process was started.
type Process = (u32, u64);

/// A demo that is half-way, with a folder of its own for what it writes.
struct Demo {
    child: Child,
    /// How the names of all that it makes begin.
    owner: String,
    folder: TempDir,
}

impl Demo {
    /// Starts it and waits until it has told this line.
    fn start(line: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("--report")
            .arg(folder.path().join("report.html"))
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let owner = format!("{}-{:x}-", child.id(), start_time(child.id()).unwrap());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok).any(|told| told.contains(line));
        assert!(told, "the demo ended before it had told {line:?}");
        Self { child, owner, folder }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its first namespace: else the test would look in the wrong place.
    fn has_made_something(&self) {
        let namespace = format!("loden-{}", self.owner);
        while !self.remains().iter().any(|name| name.starts_with(&namespace)) {
            assert!(start_time(self.child.id()).is_some(), "the demo has ended");
            std::thread::yield_now();
        }
    }

    /// Namespaces, records and files of its labs that are on the machine.
    fn remains(&self) -> Vec<String> {
        let mut found = names(Path::new("/run/netns"), &format!("loden-{}", self.owner));
        found.extend(names(Path::new("/run/loden-lab"), &self.owner));
        found.extend(names(self.folder.path(), ""));
        found
    }

    /// The processes that its labs have written down.
    fn processes(&self) -> Vec<Process> {
        let records = Path::new("/run/loden-lab");
        let labs = names(records, &self.owner).into_iter();
        let files = labs.flat_map(|lab| names(&records.join(lab), "process-"));
        let pids = files.map(|file| file.split('-').nth(1).unwrap().parse().unwrap());
        pids.filter_map(|pid| Some((pid, start_time(pid)?))).collect()
    }
}

/// Those of the processes that still run.
fn running(processes: &[Process]) -> Vec<Process> {
    processes.iter().filter(|(pid, start)| start_time(*pid) == Some(*start)).copied().collect()
}

/// The names in a folder that begin so; none if it is not there.
fn names(folder: &Path, begin: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(begin)).collect()
}

/// When a process that runs was started, in clock ticks since boot (proc(5), field 22 of `stat`).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| !ended)?.parse().ok()
}
