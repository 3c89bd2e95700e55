//! The loader, with the settings of a made-up program.

use std::fs;
use std::process::Command as Process;

use clap::Subcommand;
use tempfile::TempDir;

use super::*;

/// A program with one flag of each sort.
#[derive(Debug, Parser, PartialEq)]
#[command(name = "made-up", version)]
struct Settings {
    #[arg(long, env = "LODEN_SETTINGS_TEST_PORT", default_value_t = 7443)]
    port: u16,
    #[arg(long, env = "LODEN_SETTINGS_TEST_STATE_DIR")]
    state_dir: PathBuf,
    #[arg(long, env = "LODEN_SETTINGS_TEST_SERVER")]
    server: Vec<String>,
    #[arg(long, default_value = "1-9")]
    range: Vec<String>,
    #[arg(long)]
    learning: bool,
    #[arg(long, value_parser = ["text", "json"])]
    format: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, PartialEq, Subcommand)]
enum Verb {
    Serve,
    Check {
        #[arg(long)]
        deep: bool,
    },
}

fn directory(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made-up.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn with_file(text: &str, arguments: &[&str]) -> Result<Settings, String> {
    let (_directory, path) = directory(text);
    let arguments = ["made-up"].iter().chain(arguments);
    load_from(arguments, &[PathBuf::from("/nonexistent/made-up.toml"), path])
        .map_err(|error| error.to_string())
}

#[test]
fn the_file_replaces_defaults_and_satisfies_what_is_required() {
    let text =
        "port = 1234\nstate-dir = '/var/lib/x'\nserver = ['a:1', 'b:2']\nlearning = true\nformat = 'json'\n";
    let settings = with_file(text, &[]).unwrap();
    assert_eq!(
        settings,
        Settings {
            port: 1234,
            state_dir: "/var/lib/x".into(),
            server: vec!["a:1".into(), "b:2".into()],
            range: vec!["1-9".into()],
            learning: true,
            format: Some("json".into()),
            verb: None,
        }
    );
}

#[test]
fn a_flag_beats_the_file() {
    let text = "port = 1234\nstate-dir = '/file'\nserver = ['a:1', 'b:2']\n";
    let settings = with_file(text, &["--port=1", "--server=c:3", "check", "--deep"]).unwrap();
    assert_eq!(settings.port, 1);
    assert_eq!(settings.server, ["c:3"]);
    assert_eq!(settings.state_dir, Path::new("/file"));
    assert_eq!(settings.verb, Some(Verb::Check { deep: true }));
}

#[test]
fn the_environment_beats_the_file_and_loses_to_a_flag() {
    const CHILD: &str = "LODEN_SETTINGS_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        // In the child; the file comes by LODEN_CONFIG.
        let settings: Settings = load_from(["made-up", "--server=flag:1"], &[]).unwrap();
        assert_eq!(settings.port, 5678);
        assert_eq!(settings.server, ["flag:1"]);
        assert_eq!(settings.state_dir, Path::new("/file"));
        println!("child saw the environment");
        return;
    }
    let (_directory, path) = directory("port = 1234\nstate-dir = '/file'\nserver = ['file:1']\n");
    let child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("settings::tests::the_environment_beats_the_file_and_loses_to_a_flag")
        .env(CHILD, "1")
        .env("LODEN_CONFIG", path)
        .env("LODEN_SETTINGS_TEST_PORT", "5678")
        .env("LODEN_SETTINGS_TEST_SERVER", "environment:1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}");
    assert!(output.contains("child saw the environment"), "{output}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let message = with_file("state_dir = '/x'\n", &[]).unwrap_err();
    assert!(message.contains("made-up.toml"), "{message}");
    assert!(message.contains("unknown key \"state_dir\"; did you mean \"state-dir\"?"), "{message}");
    let message = with_file("[tls]\nkey = 1\n", &[]).unwrap_err();
    assert!(message.contains("unknown key \"tls\""), "{message}");
    // Not a key: the file cannot name another file, nor a subcommand's flag.
    assert!(with_file("config = 'x'\n", &[]).unwrap_err().contains("unknown key \"config\""));
    assert!(with_file("deep = true\n", &[]).unwrap_err().contains("unknown key \"deep\""));
    assert!(with_file("help = true\n", &[]).unwrap_err().contains("unknown key \"help\""));
}

#[test]
fn a_wrong_value_is_refused_with_key_value_and_rule() {
    let cases = [
        ("port = 65536", "port = 65536: 65536 is not in 0..=65535"),
        ("port = 'many'", "port = \"many\": invalid digit found in string"),
        ("port = [1, 2]", "port = [1, 2]: must be one value, not an array"),
        ("port = []", "port = []: must be one value, not an array"),
        ("range = []", "range = []: must have at least one value"),
        ("learning = 1", "learning = 1: must be true or false"),
        ("format = 'xml'", "format = \"xml\": must be one of text, json"),
        ("server = [['a']]", "server = [[\"a\"]]: must be a plain value"),
        ("port = {a = 1}", "must be a plain value"),
        ("port = ", "made-up.toml: TOML parse error"),
    ];
    for (line, expected) in cases {
        let message = with_file(&format!("state-dir = '/x'\n{line}\n"), &[]).unwrap_err();
        assert!(message.contains("made-up.toml"), "{line}: {message}");
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let error = load_from::<Settings>(["made-up", "--config", "/nonexistent/x.toml"], &[]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("/nonexistent/x.toml: No such file"), "{message}");
    assert_eq!(error.exit_code(), i32::from(crate::exit::USAGE));
}

#[test]
fn the_file_may_be_named_after_a_subcommand() {
    let (_directory, path) = directory("state-dir = '/named'\n");
    let settings: Settings =
        load_from(["made-up", "check", "--config", path.to_str().unwrap()], &[]).unwrap();
    assert_eq!(settings.state_dir, Path::new("/named"));
}

#[test]
fn a_list_may_be_empty_unless_there_is_always_a_value() {
    let settings = with_file("state-dir = '/x'\nserver = []\n", &[]).unwrap();
    assert!(settings.server.is_empty());
    assert_eq!(settings.range, ["1-9"]);
}

#[test]
fn all_flags_may_follow_the_word_serve() {
    let text = "state-dir = '/x'\nport = 1234\nformat = 'json'\n";
    for line in [
        &["serve", "--port=1", "--server=a:1", "--learning"][..],
        &["--port=2", "--server=b:2", "serve", "--learning", "--server", "a:1", "--port", "1"],
        &["--port=1", "--server=a:1", "--learning", "serve"],
    ] {
        let settings = with_file(text, line).unwrap();
        assert_eq!((settings.port, settings.learning), (1, true), "{line:?}");
        assert_eq!(settings.server, ["a:1"], "{line:?}");
        assert_eq!(settings.format.as_deref(), Some("json"), "{line:?}");
        assert_eq!(settings.verb, Some(Verb::Serve));
    }
    let wrong = with_file(text, &["serve", "--port=many"]).unwrap_err();
    assert!(wrong.contains("invalid value 'many' for '--port <PORT>'"), "{wrong}");
    let unknown = with_file(text, &["serve", "--prot=1"]).unwrap_err();
    assert!(unknown.contains("unexpected argument '--prot'"), "{unknown}");
    let help = with_file(text, &["serve", "--help"]).unwrap_err();
    assert!(help.contains("--port <PORT>"), "{help}");
    let help = with_file(text, &["check", "--help"]).unwrap_err();
    assert!(!help.contains("--port <PORT>"), "{help}");
    // The file may be named among them.
    let (_directory, path) = directory(text);
    let line = ["made-up", "serve", "--port=1", "--config", path.to_str().unwrap()];
    assert_eq!(load_from::<Settings>(line, &[]).unwrap().format.as_deref(), Some("json"));
}

#[test]
fn a_flag_after_another_subcommand_is_told_where_it_belongs() {
    for (flag, given) in [("--port=1", "--port"), ("--version", "--version"), ("-V", "-V")] {
        let message = with_file("state-dir = '/x'\n", &["check", flag]).unwrap_err();
        let says = format!("'{given}' is a flag of made-up itself: give it before the subcommand");
        assert!(message.contains(&says), "{flag}: {message}");
    }
    let nobodys = with_file("state-dir = '/x'\n", &["check", "--nobodys"]).unwrap_err();
    assert!(!nobodys.contains("before the subcommand"), "{nobodys}");
}

#[test]
fn without_a_file_mistakes_are_claps_own() {
    let error = load_from::<Settings>(["made-up", "--port=x"], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ValueValidation);
    let error = load_from::<Settings>(["made-up"], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
    let error = load_from::<Settings>(["made-up", "--help"], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    assert!(error.to_string().contains("--config <FILE>"), "{error}");
}

#[test]
fn the_command_is_sound() {
    command::<Settings>(&[]).debug_assert();
}
