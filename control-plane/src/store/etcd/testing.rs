//! A real etcd for tests: one for the whole test program, and prefixes of their own in it; or one for a single test.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{EtcdAddress, EtcdOptions};

/// Ends the etcd when its input ends, which it does with whoever has started it, in whatever way that ends.
const SCRIPT: &str = r#"dir=$1; shift; etcd "$@" & exec 2>/dev/null; echo $!; cat; kill -9 $!; wait; [ "$dir" = - ] || rm -rf "$dir""#;
/// What it says when it serves.
const SERVES: &str = "serving insecure client requests";

static SHARED: LazyLock<Etcd> = LazyLock::new(|| Etcd::start_in(&tempfile::tempdir().unwrap().keep(), true));
static PREFIXES: AtomicU32 = AtomicU32::new(0);

/// An etcd that asks for nothing.
pub(crate) struct Etcd {
    port: u16,
    /// Of etcd itself.
    pid: Pid,
    keeper: Child,
}

/// A prefix of its own in an etcd that all tests share.
pub(crate) fn shared() -> EtcdOptions {
    let number = PREFIXES.fetch_add(1, Ordering::Relaxed);
    SHARED.options(&format!("/test-{number}"))
}

impl Etcd {
    /// Starts one for a single test, and waits until it serves.
    pub(crate) fn start(directory: &TempDir) -> Self {
        Self::start_in(directory.path(), false)
    }

    fn start_in(directory: &Path, is_removed: bool) -> Self {
        // Somebody else may take the port before etcd does.
        let attempt = |_| {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            serve(directory, port, is_removed)
        };
        (0..10).find_map(attempt).expect("no etcd serves")
    }

    /// How a prefix of it is reached.
    pub(crate) fn options(&self, prefix: &str) -> EtcdOptions {
        let members = vec![format!("127.0.0.1:{}", self.port)];
        EtcdOptions::new(EtcdAddress { tls: false, members, prefix: prefix.to_owned() })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Ends it as a crash does, and starts it again on what it has kept, or on what is there in its place.
    pub(crate) fn crash_and_start(&mut self, directory: &TempDir) {
        // It may have ended before.
        let _ = kill(self.pid, Signal::SIGKILL);
        self.end();
        *self = serve(directory.path(), self.port, false).expect("the port is somebody else's now");
    }

    /// Runs etcdctl on it; answers what it printed.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.port)])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn end(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.end();
    }
}

/// `None` if it ended before it served.
fn serve(directory: &Path, port: u16, is_removed: bool) -> Option<Etcd> {
    let url = format!("http://127.0.0.1:{port}");
    let mut keeper = Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .arg(if is_removed { directory } else { Path::new("-") })
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", "http://127.0.0.1:0"])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let mut log = BufReader::new(keeper.stderr.take().unwrap()).lines().map_while(Result::ok);
    let serves = log.any(|line| line.contains(SERVES));
    // It goes on to write, and must not wait for a reader.
    thread::spawn(move || log.for_each(drop));
    let mut etcd = Etcd { port, pid: Pid::from_raw(pid.trim().parse().unwrap()), keeper };
    if serves {
        return Some(etcd);
    }
    etcd.end();
    None
}
