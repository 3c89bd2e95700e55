//! Stores that a control plane does not serve on: each start ends with what is wrong and where, and changes nothing.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use loden_control_plane::store::{Change, Options, SledStore, Store};
use loden_tests::deployment::{Binaries, Etcd, EtcdSettings, Underlay};
use loden_tests::disk::Disk;
use loden_tests::hosts::{Host, Lab};
use nix::mount::{MsFlags, mount};

/// Runs it on a host, or here; it has to end by itself, and to say all of these.
async fn refuses(host: Option<&Host>, words: &[String], says: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(Binaries::locate()?.control_plane);
    command.args(["--listen", "127.0.0.1:0", "--operations", "127.0.0.1:0", "--cluster", "demo"]).args(words);
    // Whoever serves after all is ended.
    let mut limited = Command::new("timeout");
    limited.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args());
    let output = match host.cloned() {
        Some(host) => tokio::task::spawn_blocking(move || host.enter(|| limited.output())).await?,
        None => limited.output(),
    };
    let output = output.context("could not run loden-control-plane")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{} for {words:?}: {told}", output.status);
    for word in says {
        ensure!(told.contains(word), "{word:?} is not said for {words:?}: {told}");
    }
    Ok(())
}

fn state(directory: &Path) -> Vec<String> {
    vec!["--state-dir".to_owned(), directory.display().to_string()]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_refuses_or_holds_something_else_is_left_as_it_is() -> anyhow::Result<()> {
    let lab = Lab::new("bad-store")?;
    let fabric = lab.fabric("fabric").await?;
    let settings = EtcdSettings { members: 1, password: Some("correct horse"), ..EtcdSettings::default() };
    let mut etcd = Etcd::prepare(&lab, &fabric, Underlay::V4, settings).await?;
    etcd.start().await?;
    let host = lab.host("control").on(&fabric).address(Underlay::V4.address(1)).build().await?;
    let seal = lab.directory().join("seal");
    fs::write(&seal, [7; 32])?;
    let home = lab.directory().join("control");
    let flags = |prefix: &str| {
        let sealed = ["--ca-seal-file".to_owned(), seal.display().to_string()];
        [state(&home), etcd.flags(prefix), sealed.to_vec()].concat()
    };
    let everything = async || etcd.etcdctl(0, &["get", "--prefix", "", "-w", "json"]).await;
    let before = everything().await?;

    let nothing_there = "there is no store in this etcd below /misspelt: the prefix may be misspelt";
    refuses(Some(&host), &flags("misspelt"), &[nothing_there, "store create"]).await?;

    let mut guesses = flags("loden");
    let file = guesses.iter().position(|flag| flag == "--etcd-password-file").context("a password")? + 1;
    let guess = lab.directory().join("guess");
    fs::write(&guess, "wrong horse")?;
    guesses[file] = guess.display().to_string();
    refuses(Some(&host), &guesses, &["authentication failed, invalid user ID or password"]).await?;

    etcd.etcdctl(0, &["put", "/newer/format", "2"]).await?;
    etcd.etcdctl(0, &["put", "/theirs/registry/pods", "x"]).await?;
    etcd.etcdctl(0, &["put", "/damaged/format", "1"]).await?;
    etcd.etcdctl(0, &["put", "/damaged/head", "x"]).await?;
    let during = everything().await?;
    refuses(Some(&host), &flags("newer"), &["has format \"2\", this version reads format \"1\" only"])
        .await?;
    refuses(Some(&host), &flags("theirs"), &["it is not a store of this program"]).await?;
    refuses(Some(&host), &flags("damaged"), &["/damaged/head in store", "is corrupt"]).await?;

    ensure!(everything().await? == during && before != during, "etcd has other contents than before");
    ensure!(!home.join("pki").exists(), "an identity was made for a cluster that is not there");
    Ok(())
}

#[tokio::test]
async fn a_state_directory_that_is_read_only_or_full_is_named() -> anyhow::Result<()> {
    let disk = Disk::small(24 << 20)?;
    let home = disk.path();
    let store = SledStore::open(&home.join("store"), Options::default()).await?;
    let change = Change::Put { key: "cluster".into(), value: "{}".into() };
    store.commit(vec![change], vec![]).await?;
    store.close().await;
    // A record that no version has written.
    refuses(None, &state(&home), &["store: record \"cluster\"", "cannot be read"]).await?;

    let nothing = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let mounted = home.parent().context("a disk has a directory")?;
    mount(None::<&str>, mounted, None::<&str>, nothing, None::<&str>)?;
    let named = home.join("pki").display().to_string();
    refuses(None, &state(&home), &["state-dir: ", &named, "Read-only file system"]).await?;
    refuses(None, &state(&home.join("another")), &["state-dir: ", "another", "Read-only file system"]).await
}
