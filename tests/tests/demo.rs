//! The demo leaves nothing behind, however it ends.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use loden_tests::hosts::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts the demo and waits until its hosts exist and its agents are being started.
fn half_way() -> Child {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_loden-demo"))
        .arg("--report")
        .arg(folder.path().join("report.html"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.contains("all pairs"));
    assert!(begun, "the demo ended before it had begun");
    demo
}

/// What a process's labs have on the machine: namespaces, records, and processes that run in them.
fn remains(pid: u32) -> Vec<String> {
    let named = |folder: &str, mark: String| {
        let entries = fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(move |name| name.contains(&mark)).collect::<Vec<_>>()
    };
    let mut found = named("/run/netns", format!("loden-{pid}-"));
    found.extend(
        named("/run/loden-lab", format!("{pid}-"))
            .into_iter()
            .filter(|name| name.strip_prefix(&pid.to_string()).is_some_and(|rest| rest.starts_with('-'))),
    );
    found
}

fn signal(demo: &Child, signal: Signal) {
    kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
}

#[test]
fn an_interrupted_demo_removes_everything_itself() {
    let mut demo = half_way();
    assert!(!remains(demo.id()).is_empty(), "the test looks in the wrong place");
    signal(&demo, Signal::SIGINT);
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(remains(demo.id()), Vec::<String>::new());
}

#[test]
fn what_a_killed_demo_left_goes_with_the_next_lab() {
    let mut demo = half_way();
    signal(&demo, Signal::SIGKILL);
    demo.wait().unwrap();
    Lab::sweep().unwrap();
    assert_eq!(remains(demo.id()), Vec::<String>::new());
}
