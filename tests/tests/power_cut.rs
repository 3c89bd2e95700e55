//! What the sled store answered survives a power cut.
//!
//! ```text
//!  test ── starts itself again ──▶ child: opens the store, tells what it holds, commits under load
//!    │◀── "holds …", "acked …" ───────┘
//!    ├── after a random number of answers: cuts the power of the disk below
//!    └── starts the disk, then the next child: everything answered must be there, 50 times over
//! ```
//!
//! The control run leaves the fdatasync out and must lose something, else this test proves nothing.

#![cfg(test)]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use loden_control_plane::store::{Change, CommitError, Health, Options, SledStore, Store};
use loden_tests::disk::Disk;
use rand::{Rng, SeedableRng, rngs::StdRng};

const ROUNDS: usize = 50;
/// Where a child finds its store; a test that finds it set is that child.
const CHILD: &str = "LODEN_POWER_CUT_STORE";
const WORKERS: usize = 64;
const KEYS: u32 = 300;
/// Small, so that sled's segments are trimmed and used again, and snapshots are made, all the time.
const HISTORY_BYTES: usize = 256 << 10;

#[test]
fn nothing_that_was_answered_is_lost_in_fifty_power_cuts() {
    if let Some(dir) = env::var_os(CHILD) {
        return child(Path::new(&dir), options());
    }
    let test = "nothing_that_was_answered_is_lost_in_fifty_power_cuts";
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::ext4(192 << 20).unwrap();
    let mut witness = Witness::default();
    let mut answered = 0;
    for round in 0..ROUNDS {
        let answers =
            if round % 5 == 4 { rng.random_range(2_000..6_000) } else { rng.random_range(1..1_500) };
        let verdict = power_cut(&disk, test, &mut witness, answers);
        answered += verdict.unwrap_or_else(|lost| panic!("round {round}, seed {seed}: {lost}"));
    }
    println!("{answered} answers in {ROUNDS} power cuts, none lost");
}

#[test]
fn without_the_fdatasync_answers_are_lost() {
    if let Some(dir) = env::var_os(CHILD) {
        return child(Path::new(&dir), options().without_fdatasync());
    }
    let test = "without_the_fdatasync_answers_are_lost";
    let mut rng = StdRng::seed_from_u64(rand::random());
    for round in 0..ROUNDS {
        let disk = Disk::ext4(192 << 20).unwrap();
        let mut witness = Witness::default();
        let two = (0..2)
            .try_for_each(|_| power_cut(&disk, test, &mut witness, rng.random_range(1..1_500)).map(drop));
        if let Err(lost) = two {
            println!("round {round}: {lost}");
            return;
        }
    }
    panic!("{ROUNDS} power cuts lost nothing, so the other test could not fail either");
}

fn options() -> Options {
    Options::default().with_history(HISTORY_BYTES)
}

/// Starts a child, checks what it holds, and cuts the power after `answers` answers. Says how many came.
fn power_cut(disk: &Disk, test: &str, witness: &mut Witness, answers: usize) -> Result<usize, String> {
    let mut child = Running::start(test, &disk.path().join("store"));
    let mut came = 0;
    let mut cut = false;
    let mut poisoned = false;
    while let Some(line) = child.line() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("failed", why) => return Err(format!("the store did not open: {why}")),
            ("holds", what) => witness.held.push(what.to_owned()),
            ("past", what) => witness.past.push(what.to_owned()),
            ("ready", revision) => witness.compare(revision.parse().map_err(|_| "no revision")?)?,
            ("acked", what) => {
                witness.acked(what);
                came += 1;
                if came >= answers && !cut {
                    disk.cut_power().expect("the power is cut");
                    cut = true;
                }
            }
            ("poisoned", _) => poisoned = true,
            other => panic!("child said {other:?}"),
        }
    }
    assert!(cut, "the child ended before the power was cut, after {came} answers");
    assert!(poisoned, "the store did not notice that its disk is gone");
    drop(child);
    disk.restart().expect("the disk starts again");
    Ok(came)
}

/// What the outside world was told, and what the store must therefore hold.
#[derive(Default)]
struct Witness {
    /// Changes by revision.
    batches: BTreeMap<u64, String>,
    /// Of each key: the last revision that is known to have changed it, and the value it then had.
    last: BTreeMap<String, (u64, String)>,
    held: Vec<String>,
    past: Vec<String>,
}

impl Witness {
    /// `REVISION KEY=VALUE,…`
    fn acked(&mut self, what: &str) {
        let (revision, changes) = what.split_once(' ').expect("a revision and changes");
        let revision = revision.parse().expect("a revision");
        for change in changes.split(',') {
            let (key, value) = change.split_once('=').expect("a key and a value");
            let last = self.last.entry(key.to_owned()).or_default();
            if last.0 < revision {
                *last = (revision, value.to_owned());
            }
        }
        self.batches.insert(revision, changes.to_owned());
    }

    /// Compares what the store holds with what it had answered; from then on, it is known to hold that.
    fn compare(&mut self, revision: u64) -> Result<(), String> {
        let newest = self.batches.keys().next_back().copied().unwrap_or(0);
        if revision < newest {
            return Err(format!("answered up to revision {newest}, the store is at {revision}"));
        }
        let past: Vec<_> = std::mem::take(&mut self.past);
        for line in &past {
            let (revision, changes) = line.split_once(' ').expect("a revision and changes");
            let known = self.batches.get(&revision.parse().expect("a revision"));
            if known.is_some_and(|known| known != changes) {
                return Err(format!("revision {revision} was answered as {known:?} and is {changes}"));
            }
        }
        // What was durable and not yet answered when the power went counts from here on.
        past.iter().for_each(|line| self.acked(line));
        let mut held = BTreeMap::new();
        for line in std::mem::take(&mut self.held) {
            let [key, revision, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            held.insert(key.to_owned(), (revision.parse().expect("a revision"), value.to_owned()));
        }
        for (key, expected) in &self.last {
            let gone = (expected.0, "-".to_owned());
            let found = held.get(key).unwrap_or(&gone);
            if found != expected {
                return Err(format!("{key} was last {expected:?} and is {found:?}"));
            }
        }
        match held.keys().find(|key| !self.last.contains_key(*key)) {
            Some(key) => Err(format!("nobody put {key}")),
            None => Ok(()),
        }
    }
}

/// A child, killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(test: &str, store: &Path) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test starts itself");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// The next line of the protocol; the harness writes others.
    fn line(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.expect("the child writes text");
            if let Some(line) = line.strip_prefix("@ ") {
                return Some(line.to_owned());
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("the child ends");
    }
}

/// The child: a control plane as far as its store is concerned.
fn child(dir: &Path, options: Options) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = match SledStore::open(dir, options).await {
            Ok(store) => Arc::new(store),
            Err(error) => return say(&format!("failed {error}")),
        };
        let loaded = store.load().await.expect("an open store reads");
        for record in &loaded.records {
            say(&format!("holds {} {} {}", record.key, record.mod_revision, fingerprint(&record.value)));
        }
        for batch in &loaded.history {
            say(&format!("past {} {}", batch.revision, describe(&batch.changes)));
        }
        say(&format!("ready {}", loaded.revision));
        let mut rng = StdRng::seed_from_u64(rand::random());
        let mut running: FuturesUnordered<_> = (0..WORKERS).map(|_| commit(&store, &mut rng)).collect();
        while let Some((changes, outcome)) = running.next().await {
            match outcome {
                Ok(revision) => say(&format!("acked {revision} {changes}")),
                Err(CommitError::Poisoned(cause)) => {
                    let health = store.health().borrow().clone();
                    assert_eq!(health, Health::Poisoned { cause: cause.clone() });
                    say(&format!("poisoned {cause}"));
                    // As after kill -9: nothing is put in order.
                    std::process::exit(0);
                }
                Err(other) => panic!("{other}"),
            }
            running.push(commit(&store, &mut rng));
        }
    });
}

/// Starts one commit: puts of all sizes, removals, and pairs that must stay pairs.
fn commit(
    store: &SledStore,
    rng: &mut StdRng,
) -> impl Future<Output = (String, Result<loden_control_plane::store::Revision, CommitError>)> + use<> {
    let key = rng.random_range(0..KEYS);
    let size = if rng.random_ratio(1, 50) { rng.random_range(0..16_384) } else { rng.random_range(0..300) };
    let mut value = vec![0; size];
    rng.fill(&mut value[..]);
    let put = |key: String| Change::Put { key: key.into(), value: Bytes::from(value.clone()) };
    let changes = match rng.random_range(0..10) {
        0 => vec![Change::Delete { key: format!("k/{key}").into() }],
        1..4 => vec![put(format!("left/{key}")), put(format!("right/{key}"))],
        _ => vec![put(format!("k/{key}"))],
    };
    let described = describe(&changes);
    let outcome = store.commit(changes, vec![]);
    async move {
        (described, tokio::time::timeout(Duration::from_secs(10), outcome).await.expect("an answer in 10 s"))
    }
}

fn describe(changes: &[Change]) -> String {
    let changes = changes.iter().map(|change| match change {
        Change::Put { key, value } => format!("{key}={}", fingerprint(value)),
        Change::Delete { key } => format!("{key}=-"),
    });
    changes.collect::<Vec<_>>().join(",")
}

fn fingerprint(value: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn say(line: &str) {
    // One write each, so that a kill does not tear lines. Without a reader, there is nothing left to do.
    if std::io::stdout().write_all(format!("@ {line}\n").as_bytes()).is_err() {
        std::process::exit(0);
    }
}
