//! A network namespace without a name for the time of one test.
//!
//! It belongs to the thread that made it and to those that this one starts;
//! when the last of them ends, also by a panic, it is gone with everything in
//! it.

use std::net::IpAddr;
use std::process::Command;
use std::thread;

use loden_datapath::backend::{self, Me};
use loden_datapath::{
    Datapath, DeviceName, Drift, Hint, Hints, Host, Kernel, Plan, Report, Scope, Step, Tables, plan,
};
use loden_proto::model::{Network, Peer};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

/// A namespace with `eth0` (one end of a pair, the other is `far0`), up.
pub(crate) struct Net {
    /// What a stranger on the host would do things with.
    pub(crate) stranger: Handle,
    /// The datapath under test.
    pub(crate) kernel: Kernel,
}

/// Runs a test in a namespace of its own.
pub(crate) fn in_namespace(test: impl AsyncFnOnce(Net) + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, stranger, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let net = Net { stranger, kernel: Kernel::open().unwrap() };
            net.stranger.link().add(LinkVeth::new("eth0", "far0").build()).execute().await.unwrap();
            for name in ["lo", "far0", "eth0"] {
                net.set(LinkUnspec::new_with_name(name).up()).await;
            }
            let eth0 = net.index("eth0").await.unwrap();
            net.stranger.address().add(eth0, "192.0.2.1".parse().unwrap(), 24).execute().await.unwrap();
            let v6: IpAddr = "2001:db8:ffff::1".parse().unwrap();
            net.stranger.address().add(eth0, v6, 64).execute().await.unwrap();
            test(net).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Net {
    /// The index of a link.
    pub(crate) async fn index(&self, name: &str) -> Option<u32> {
        use futures_util::TryStreamExt;
        let mut links = self.stranger.link().get().match_name(name.to_owned()).execute();
        links.try_next().await.ok().flatten().map(|link| link.header.index)
    }

    /// Changes a link.
    pub(crate) async fn set(&self, change: rtnetlink::LinkMessageBuilder<LinkUnspec>) {
        self.stranger.link().set(change.build()).execute().await.unwrap();
    }

    /// An attribute of a link.
    pub(crate) async fn attribute<T>(
        &self,
        name: &str,
        pick: impl Fn(&LinkAttribute) -> Option<T>,
    ) -> Option<T> {
        use futures_util::TryStreamExt;
        let mut links = self.stranger.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.ok().flatten()?;
        link.attributes.iter().find_map(pick)
    }
}

/// Waits for a hint that concerns the owner of `desired`.
pub(crate) async fn concerned(hints: &mut Hints, desired: &Tables) -> Hint {
    let wait = async {
        loop {
            let hint = hints.recv().await.expect("hints end with the datapath only");
            if hint.concerns(desired) {
                return hint;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("nobody was told")
}

/// Waits until something is known not to be as desired: lost, altered, or there and wanted by nobody.
pub(crate) async fn adrift(hints: &mut Hints, network: &Network, desired: &Tables) {
    let mut drift = Drift::default();
    let wait = async {
        while drift.since().is_none() {
            let hint = hints.recv().await.unwrap();
            drift.heed(&hint, desired, &network.pools, std::time::Instant::now());
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("nobody was told");
}

/// What is adrift after all that has been told until it is quiet.
pub(crate) async fn drift(hints: &mut Hints, network: &Network, desired: &Tables) -> Drift {
    let mut drift = Drift::default();
    while let Ok(hint) = tokio::time::timeout(std::time::Duration::from_millis(200), hints.recv()).await {
        drift.heed(&hint.unwrap(), desired, &network.pools, std::time::Instant::now());
    }
    drift
}

/// A node that has two peers, and what it hears of then.
pub(crate) async fn joined(net: &mut Net, blackhole: bool) -> (Network, Me, Tables, Hints) {
    let network = super::network();
    let me = Me { blackhole, ..super::me(&network) };
    let wanted = desired(&network, &me, &[2, 3].map(|node| super::peer(&network, node)));
    net.converge(&network, &wanted).await;
    let hints = net.kernel.hints().await.unwrap();
    (network, me, wanted, hints)
}

pub(crate) fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    plan.steps().iter().map(ToString::to_string).collect()
}

/// Has iproute2 do something in the namespace of the thread; answers what it prints.
pub(crate) fn foreign(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What node 1 asks for.
pub(crate) fn scope(network: &Network) -> Scope {
    backend::scope(network, super::me(network).mac)
}

pub(crate) fn desired(network: &Network, me: &Me, peers: &[Peer]) -> Tables {
    let (tables, refused) = backend::tables(network, me, peers);
    assert!(refused.is_empty(), "{refused:?}");
    tables
}

impl Net {
    /// One pass, as an agent does it. The second look must find nothing to do.
    pub(crate) async fn converge(&mut self, network: &Network, desired: &Tables) -> Plan {
        let scope = scope(network);
        let todo = plan(&self.kernel.observe(&scope).await.unwrap(), desired);
        let report = self.kernel.execute(&todo).await;
        assert!(report.is_complete(), "{:#?}", report.failed);
        assert_eq!(report.executed, todo.len());
        let actual = self.kernel.observe(&scope).await.unwrap();
        assert_eq!(lines(&plan(&actual, desired)), Vec::<String>::new());
        assert_eq!(&actual, desired);
        todo
    }

    pub(crate) async fn run(&mut self, steps: impl IntoIterator<Item = Step>) -> Report {
        self.kernel.execute(&steps.into_iter().collect()).await
    }
}

/// Another namespace, or a way into this one from any thread: a thread that stays in it and does what it is
/// told.
pub(crate) struct Apart {
    work: std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: nix::unistd::Pid,
}

impl Apart {
    /// A new namespace; it is gone with the last that runs in it.
    pub(crate) fn new() -> Self {
        Self::start(|| unshare(CloneFlags::CLONE_NEWNET).unwrap())
    }

    /// The namespace of the calling thread.
    pub(crate) fn here() -> Self {
        Self::start(|| {})
    }

    fn start(enter: impl FnOnce() + Send + 'static) -> Self {
        let (work, inbox) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (started, start) = std::sync::mpsc::channel();
        thread::spawn(move || {
            enter();
            started.send(nix::unistd::gettid()).unwrap();
            for task in inbox {
                task();
            }
        });
        Self { work, thread: start.recv().unwrap() }
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread)
    }

    /// Runs something in it and waits.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = std::sync::mpsc::channel();
        let task = move || drop(done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(task))));
        self.work.send(Box::new(task)).unwrap();
        answer.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
