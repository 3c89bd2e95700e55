//! Settings: the tables of `operations.md` are what `--help` says, and its files are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::markdown::{Document, code, document};
use crate::program::{Flag, PROGRAMS, flags, help, run};

const HEADINGS: [&str; 3] = ["### loden-control-plane", "### loden-agent", "### lodenctl settings"];

/// Each program with its section.
fn sections() -> Vec<(&'static str, Document)> {
    let operations = document("docs/operations.md");
    PROGRAMS
        .into_iter()
        .zip(HEADINGS)
        .map(|(program, heading)| (program, operations.section(heading)))
        .collect()
}

/// The flags that settings can be given by: all but those that end the program at once.
fn setting_flags(program: &str) -> BTreeMap<String, Flag> {
    let mut flags = flags(&help(program, &[]));
    for flag in ["--help", "--version"] {
        assert!(flags.remove(flag).is_some(), "{program} has no {flag}");
    }
    flags
}

#[test]
fn the_tables_of_settings_have_every_flag_its_variable_and_its_default() {
    for (program, section) in sections() {
        let documented: BTreeMap<String, Flag> = section
            .rows()
            .iter()
            .map(|row| {
                let flag = Flag { variable: code(&row[1]).to_owned(), default: code(&row[2]).to_owned() };
                (code(&row[0]).to_owned(), flag)
            })
            .collect();
        let mut told = setting_flags(program);
        // Its default is the files' names, which depend on who asks.
        told.get_mut("--config").unwrap().default.clear();
        assert_eq!(documented, told, "{program}");
    }
}

#[test]
fn the_example_files_are_accepted_and_have_every_key() {
    for (program, section) in sections() {
        let blocks = section.blocks();
        let block = blocks.iter().find(|block| block.language == "toml").unwrap();
        let text = block.lines.join("\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.toml");
        let completions = |text: &str| {
            fs::write(&path, text).unwrap();
            run(program, ["--config", path.to_str().unwrap(), "completions", "bash"])
        };
        let output = completions(&text);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        // The check can fail: nothing but the file makes the difference.
        let output = completions(&format!("{text}\nno-such-key = 1\n"));
        assert_eq!(output.status.code(), Some(2), "{program} takes any key");

        let keys = block.lines.iter().filter_map(|line| line.split_once(" = "));
        let keys: BTreeSet<String> = keys.map(|(key, _)| format!("--{key}")).collect();
        let mut all: BTreeSet<String> = setting_flags(program).into_keys().collect();
        all.remove("--config");
        assert_eq!(keys, all, "{program}");
        assert_eq!(block.lines[0].split('/').next_back(), Some(file_name(program)), "{program}");
    }
}

fn file_name(program: &str) -> &'static str {
    match program {
        "loden-control-plane" => "control-plane.toml",
        "loden-agent" => "agent.toml",
        _ => "lodenctl.toml",
    }
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let rows = document("docs/operations.md").section("## Exit codes").rows();
    let documented = |column: usize| {
        let codes = rows.iter().filter(|row| !row[column].is_empty()).map(|row| row[0].clone());
        codes.collect::<Vec<_>>()
    };
    for (program, column) in PROGRAMS.into_iter().zip([1, 1, 2]) {
        let help = help(program, &[]);
        let lines = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
        let codes = lines.take_while(|line| line.starts_with("  "));
        let codes: Vec<String> =
            codes.map(|line| line.trim().split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(documented(column), codes, "{program}");
    }
}
