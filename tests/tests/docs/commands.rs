//! Commands in documents are ones that the programs, the Makefile and the systemd units know.

use std::collections::BTreeSet;
use std::fs;

use crate::markdown::{Document, documents, root};
use crate::program::{PROGRAMS, flags, help, run};

/// The commands of a document's blocks, with where they stand.
fn commands(document: &Document) -> Vec<(String, String)> {
    let mut commands = Vec::new();
    for block in document.blocks() {
        for (index, line) in block.lines.iter().enumerate() {
            let command = match block.language {
                "sh" => Some(*line),
                "console" => line.strip_prefix("$ "),
                _ => None,
            };
            // What follows is a comment.
            let command = command.map(|line| line.split(" #").next().unwrap_or_default().trim());
            let Some(command) = command.filter(|line| !line.is_empty() && !line.starts_with('#')) else {
                continue;
            };
            let place = format!("{}:{}", document.path.display(), block.line + index);
            commands.push((place, command.to_owned()));
        }
    }
    commands
}

fn make_targets() -> BTreeSet<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let rules = makefile.lines().filter(|line| line.contains(":") && line.contains("## "));
    rules.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

#[test]
fn every_command_is_one_that_there_is() {
    let targets = make_targets();
    assert!(targets.contains("demo") && targets.contains("test"), "{targets:?}");
    let mut seen = BTreeSet::new();
    for document in documents() {
        for (place, command) in commands(&document) {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words[0] {
                program if PROGRAMS.contains(&program) => {
                    // Help comes last: whatever stands before it must be known.
                    let output = run(program, words[1..].iter().copied().chain(["--help"]));
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{place}: {command}: {said}");
                    seen.insert(program.to_owned());
                }
                "make" => {
                    for target in words[1..].iter().filter(|word| !word.contains('=')) {
                        assert!(targets.contains(*target), "{place}: {command}");
                    }
                    seen.insert("make".to_owned());
                }
                _ => {}
            }
        }
    }
    let expected = PROGRAMS.into_iter().chain(["make"]).map(str::to_owned).collect();
    assert_eq!(seen, expected, "a kind of command is nowhere found: is it still looked for?");
}

#[test]
fn a_wrong_command_is_found() {
    for line in ["network create --poool 10.0.0.0/8 x", "netwrk list", "status --no-such-flag"] {
        let words = line.split(' ').chain(["--help"]);
        assert!(!run("lodenctl", words).status.success(), "{line}");
    }
}

/// All flags of the program and of its commands.
fn all_flags(program: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut waiting: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = help(program, &words);
        all.extend(flags(&text).into_keys());
        let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in listed.take_while(|line| line.starts_with("  ")) {
            let name = line.split_whitespace().next().unwrap_or_default();
            if line.starts_with("  ") && !line.starts_with("   ") && name != "help" {
                waiting.push(command.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    all
}

/// Programs of others whose flags are written about.
const FOREIGN: [(&str, &[&str]); 2] = [
    ("docs/from-flannel.md", &["--etcd", "--healthz", "--subnet-lease-renew-margin", "--ip", "--kube"]),
    ("docs/operations.md", &["--locked", "--release", "--workspace", "--bins", "--reload", "--now"]),
];

#[test]
fn every_flag_that_is_named_exists() {
    let known: BTreeSet<String> = PROGRAMS.into_iter().flat_map(all_flags).collect();
    assert!(known.contains("--force") && known.contains("--pool"), "{known:?}");
    let mut named = 0;
    for document in documents() {
        let path = document.path.to_str().unwrap();
        let foreign = FOREIGN.iter().find(|(of, _)| *of == path).map_or(&[][..], |(_, flags)| *flags);
        for (number, line) in document.prose() {
            for quoted in line.split('`').skip(1).step_by(2) {
                for word in quoted.split([' ', '=']).filter(|word| word.starts_with("--")) {
                    named += 1;
                    let is_foreign = foreign.iter().any(|flag| word.starts_with(flag));
                    let there = known.contains(word) || is_foreign || word == "--help";
                    assert!(there, "{path}:{number}: {word} is no flag of ours");
                }
            }
        }
    }
    assert!(named > 50, "only {named} flags were found");
}

#[test]
fn the_units_start_programs_of_ours_and_name_files_that_are_documented() {
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for (unit, program) in
        [("loden-agent.service", "loden-agent"), ("loden-control-plane.service", "loden-control-plane")]
    {
        let text = fs::read_to_string(root().join("deploy/systemd").join(unit)).unwrap();
        assert!(text.contains(&format!("\nExecStart=/usr/bin/{program}\n")), "{unit}");
        assert!(operations.contains(unit), "{unit}");
        let state = text.lines().find_map(|line| line.strip_prefix("StateDirectory="));
        let default = flags(&help(program, &[]))["--state-dir"].default.clone();
        assert_eq!(state.map(|state| format!("/var/lib/{state}")), Some(default), "{unit}");
    }
}
