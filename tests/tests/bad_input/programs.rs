//! Configurations that the programs refuse: exit code 2, and the key is named.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use loden_tests::deployment::Binaries;

use crate::told;

/// A configuration file and what has to be said of it.
type Files = &'static [(&'static str, &'static [&'static str])];

const CONTROL_PLANE: Files = &[
    ("stat-dir = \"/nowhere\"\n", &["stat-dir", "state-dir"]),
    ("DirectRoutin = true\n", &["DirectRoutin"]),
    ("lease_ttl = \"1h\"\n", &["lease_ttl", "lease-ttl"]),
    ("[network]\nname = \"default\"\n", &["network"]),
    ("listen = 7443\n", &["listen", "7443"]),
    ("listen = \"nowhere\"\n", &["listen", "nowhere"]),
    ("listen = \"127.0.0.1:70000\"\n", &["listen", "127.0.0.1:70000"]),
    ("lease-ttl = \"1s\"\n", &["lease-ttl", "1s", "10s to 365d"]),
    ("vni-range = [\"0-9\"]\n", &["vni-range", "0", "1 to 16777215"]),
    ("vni-range = [\"9-1\"]\n", &["vni-range", "9-1", "lower VNI first"]),
    ("vni-range = []\n", &["vni-range", "[]", "must have at least one value"]),
    ("cluster = \"A B\"\n", &["cluster", "A B", "DNS name"]),
    ("max-lag = \"1s\"\n", &["max-lag", "1s", "heartbeat"]),
    ("listen = \n", &["line 1"]),
];

const AGENT: Files = &[
    ("stat-dir = \"/nowhere\"\n", &["stat-dir", "state-dir"]),
    ("DirectRoutin = true\n", &["DirectRoutin"]),
    ("iface_regex = [\"eth.\"]\n", &["iface_regex", "iface-regex"]),
    ("iface-regex = [\"(\"]\n", &["iface-regex", "("]),
    ("network = [\"Blue\"]\n", &["network", "Blue", "DNS label"]),
    ("public-ip = \"192.0.2\"\n", &["public-ip", "192.0.2"]),
    ("server = [\"a:b:c\"]\n", &["server", "a:b:c"]),
    ("server = []\n", &["server", "[]", "must have at least one value"]),
    ("server = [\"a\"]\nnetwork = []\n", &["network", "[]", "must have at least one value"]),
    ("operations = \"127.0.0.1\"\n", &["operations", "127.0.0.1"]),
    ("server = [\"a\"]\nnetwork = [\"blue\", \"red\", \"blue\"]\n", &["network", "blue", "twice"]),
];

const LODENCTL: Files = &[
    ("sever = [\"127.0.0.1\"]\n", &["sever", "server"]),
    ("DirectRoutin = true\n", &["DirectRoutin"]),
    ("output = \"xml\"\n", &["output", "xml", "json"]),
    ("timeout = \"soon\"\n", &["timeout", "soon"]),
    ("timeout = \"0s\"\n", &["timeout", "0s", "must be longer than 0s"]),
    // As if it were not there: another place may name one.
    ("server = []\n", &["--server", "LODEN_SERVER"]),
];

/// The words that the program needs beside the file.
fn refuses(program: &Path, words: &[&str], files: Files) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("loden.toml");
    for (text, says) in files {
        std::fs::write(&file, text)?;
        let output = Command::new(program).arg("--config").arg(&file).args(words).output()?;
        told(&output, 2, says).with_context(|| format!("{} with {text:?}", program.display()))?;
    }
    Ok(())
}

#[test]
fn a_misspelt_key_or_bad_value_in_a_file_ends_each_program_with_2() -> anyhow::Result<()> {
    let binaries = Binaries::locate()?;
    refuses(&binaries.control_plane, &[], CONTROL_PLANE)?;
    refuses(&binaries.agent, &["--state-dir", "/nowhere/agent"], AGENT)?;
    refuses(&binaries.lodenctl, &["status"], LODENCTL)
}

#[test]
fn a_flag_or_variable_that_is_wrong_ends_each_program_with_2() -> anyhow::Result<()> {
    let binaries = Binaries::locate()?;
    let (control_plane, agent, lodenctl) = (&binaries.control_plane, &binaries.agent, &binaries.lodenctl);
    let flags: &[(&Path, &[&str], &[&str])] = &[
        (control_plane, &["--lisen", "127.0.0.1:0"], &["--lisen", "--listen"]),
        (control_plane, &["--listen", "7443"], &["--listen", "7443"]),
        (control_plane, &["--config", "/nowhere/loden.toml"], &["/nowhere/loden.toml"]),
        (control_plane, &["issue", "king", "a", "--out", "/nowhere"], &["king", "node", "admin"]),
        (control_plane, &["issue", "node", "Node_1", "--out", "/nowhere"], &["name", "Node_1", "DNS name"]),
        (control_plane, &["issue", "admin", "a/b", "--out", "/nowhere"], &["name", "a/b", "1 to 63 letters"]),
        (
            control_plane,
            &["issue", "node", "a", "--out", "/nowhere", "--validity", "1s"],
            &["--validity", "1s", "must be 1m to 365d"],
        ),
        (control_plane, &["sreve"], &["sreve", "serve"]),
        (control_plane, &["serve", "--listen", "7443"], &["--listen", "7443", "invalid socket address"]),
        (
            control_plane,
            &["recover", "--listen", "[::]:0"],
            &["'--listen' is a flag of loden-control-plane", "before"],
        ),
        (control_plane, &["completions", "bash", "--settle", "1s"], &["'--settle' is a flag of", "before"]),
        (agent, &["cleanup", "--server", "a"], &["'--server' is a flag of loden-agent itself", "before"]),
        (agent, &["cleanup", "--no-cni"], &["'--no-cni' is a flag of loden-agent itself", "before"]),
        (lodenctl, &["node", "list", "--version"], &["'--version' is a flag of lodenctl itself", "before"]),
        (agent, &[], &["--server"]),
        (agent, &["--server", "a", "--sttate-dir", "/x"], &["--sttate-dir", "--state-dir"]),
        (agent, &["--server", "a", "--network", "-"], &["--network", "-", "DNS label"]),
        (agent, &["--server", "a", "--network", "x,x"], &["network", "\"x\"", "must not be given twice"]),
        (agent, &["--server", "a", "--identity", "/nowhere/identity"], &["/nowhere/identity"]),
        (lodenctl, &["status", "--server", "2001:db8::1:7443"], &["in brackets: [2001:db8::1]:7443"]),
        (agent, &["--server", "2001:db8:77::1"], &["2001:db8:77::1", "in brackets: [2001:db8::1]:7443"]),
        (agent, &["--server", "1:2:3:4:5:6:7:8:7443"], &["in brackets: [2001:db8::1]:7443"]),
        (lodenctl, &["network", "update", "blue", "--mtu", "auto"], &["--mtu", "auto", "--no-mtu"]),
        (lodenctl, &["network", "create", "blue", "--mtu", "much"], &["--mtu", "much", "number of bytes"]),
        (control_plane, &["recover", "--state-dir", "/nowhere"], &["state-dir", "/nowhere", "is not there"]),
        (lodenctl, &["status", "--timeout", "0s"], &["--timeout", "0s", "must be longer than 0s"]),
        (lodenctl, &[], &["Usage"]),
        (lodenctl, &["status"], &["server"]),
        (lodenctl, &["status", "--serve", "a"], &["--serve", "--server"]),
    ];
    for (program, words, says) in flags {
        let output = Command::new(program).args(*words).output()?;
        told(&output, 2, says).with_context(|| format!("{} {words:?}", program.display()))?;
    }
    for (program, words, variable, value) in [
        (control_plane, &[][..], "LODEN_LISTEN", "7443"),
        (control_plane, &[], "LODEN_SETTLE", "a while"),
        (agent, &["--server", "a"], "LODEN_PUBLIC_IP", "::1"),
        (lodenctl, &["status"], "LODEN_OUTPUT", "xml"),
    ] {
        let output = Command::new(program).args(words).env(variable, value).output()?;
        told(&output, 2, &[value])
            .with_context(|| format!("{} with {variable}={value}", program.display()))?;
    }
    Ok(())
}

#[test]
fn an_agent_with_the_identity_of_an_admin_ends_with_2() -> anyhow::Result<()> {
    let binaries = Binaries::locate()?;
    let state = tempfile::tempdir()?;
    loden_control_plane::identity::Pki::open_or_create(
        &state.path().join("pki"),
        &"loden".parse()?,
        std::time::SystemTime::now(),
    )?;
    let admin = state.path().join("admin");
    let mut issue = Command::new(&binaries.control_plane);
    issue.arg("--state-dir").arg(state.path()).args(["issue", "admin", "ann", "--out"]).arg(&admin);
    told(&issue.output()?, 0, &[])?;
    let mut agent = Command::new(&binaries.agent);
    let agent = agent.args(["--server", "a", "--identity"]).arg(&admin).output()?;
    told(&agent, 2, &["spiffe://loden/admin/ann", "not a node's"])
}
