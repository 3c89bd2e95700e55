//! Our programs, run for what they say of themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use loden_tests::deployment::Binaries;

/// The names of the three programs.
pub(crate) const PROGRAMS: [&str; 3] = ["loden-control-plane", "loden-agent", "lodenctl"];

/// What `--help` says of a flag.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flag {
    pub(crate) variable: String,
    pub(crate) default: String,
}

fn path(program: &str) -> PathBuf {
    let binaries = Binaries::locate().unwrap();
    match program {
        "loden-control-plane" => binaries.control_plane,
        "loden-agent" => binaries.agent,
        "lodenctl" => binaries.lodenctl,
        other => panic!("{other} is not a program of ours"),
    }
}

/// Runs a program with nothing of ours in its environment.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(path(program));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LODEN_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME").args(arguments).output().unwrap()
}

/// The help of a program or of one of its commands.
pub(crate) fn help(program: &str, command: &[&str]) -> String {
    let output = run(program, command.iter().copied().chain(["--help"]));
    assert!(output.status.success(), "{program} {command:?} --help: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags that a help text lists, with what it says of them.
pub(crate) fn flags(help: &str) -> BTreeMap<String, Flag> {
    let mut flags = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in help.lines().map(str::trim) {
        if line.starts_with('-') && !line.starts_with("- ") {
            let long = line.split([' ', ',']).find(|word| word.starts_with("--"));
            current = long.map(str::to_owned);
            flags.extend(long.map(|long| (long.to_owned(), Flag::default())));
        }
        let Some(flag) = current.as_ref().and_then(|name| flags.get_mut(name)) else { continue };
        let bracketed = |label: &str| Some(line.strip_prefix(label)?.strip_suffix(']')?.to_owned());
        if let Some(variable) = bracketed("[env: ") {
            flag.variable = variable.trim_end_matches('=').to_owned();
        }
        if let Some(default) = bracketed("[default: ") {
            flag.default = default;
        }
    }
    flags
}

#[test]
fn a_help_text_is_read_as_it_is_meant() {
    let text = "\
Options:
      --listen <ADDRESS>
          Address

          [env: LODEN_LISTEN=]
          [default: 0.0.0.0:7443]

      --format <FORMAT>
          Possible values:
          - text: One line

  -h, --help
          Print help
";
    let flags = flags(text);
    assert_eq!(flags.keys().collect::<Vec<_>>(), ["--format", "--help", "--listen"]);
    assert_eq!(flags["--listen"].variable, "LODEN_LISTEN");
    assert_eq!(flags["--listen"].default, "0.0.0.0:7443");
}
