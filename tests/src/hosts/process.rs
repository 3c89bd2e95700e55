//! A real program inside a namespace.
//!
//! ```text
//!  thread of its own: fork, setns, exec ──▶ waits ──▶ kills what is left of the group ──▶ reaps ──▶ tells
//!  Process: signals under a lock that the reaping takes too, so a pid is never somebody else's
//! ```
//! The kernel kills the program when that thread ends, so it does not outlive a killed test.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::sync::watch;

use super::{
    Error, Log, Namespace,
    error::Doing,
    record::{ProcessId, Record},
};

/// How often a log is looked at.
const LOG_INTERVAL: Duration = Duration::from_millis(10);

/// A running program. Dropping it kills the program and all of its process group, and waits.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: Log,
    reaped: Arc<Mutex<bool>>,
    exited: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

impl Process {
    pub(super) fn spawn(namespace: &Namespace, name: &str, mut command: Command) -> Result<Self, Error> {
        let what = format!("{}-{name}", namespace.name());
        let path = namespace.record.directory().join(format!("{what}.log"));
        let output = File::options().create(true).append(true).open(&path);
        let output = output.doing(|| format!("open {}", path.display()))?;
        let begin = output.metadata().doing(|| format!("read {}", path.display()))?.len();
        let errors = output.try_clone().doing(|| format!("open {}", path.display()))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        die_with_us(&mut command);
        enter_before_exec(&mut command, namespace);

        let doing = || format!("run {} as {what}", command_line(&command));
        let described = doing();
        let (started, start) = mpsc::sync_channel(1);
        let (exits, exited) = watch::channel(None);
        let reaped = Arc::new(Mutex::new(false));
        let waiter = thread::Builder::new()
            .name(what.clone())
            .spawn({
                let (reaped, record) = (Arc::clone(&reaped), Arc::clone(&namespace.record));
                move || match command.spawn() {
                    Ok(child) => {
                        let id = note(&record, &child);
                        let _ = started.send(Ok(child.id()));
                        exits.send_replace(wait(child, &reaped));
                        if let Some(id) = id {
                            record.process_ended(id);
                        }
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })
            .doing(|| &described)?;
        let pid = match start.recv() {
            Ok(result) => result.doing(|| &described)?,
            Err(error) => return Err(Error::new(&described, error)),
        };
        Ok(Self {
            name: what,
            pid: Pid::from_raw(pid.cast_signed()),
            log: Log::new(path, begin),
            reaped,
            exited,
            waiter: Some(waiter),
        })
    }

    /// `HOST-NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id; somebody else's once the process has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// What the process has written.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its exit status once it has ended.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exited.borrow()
    }

    /// Sends a signal to the process alone. A process that has ended gets none.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let reaped = lock(&self.reaped);
        if *reaped {
            return Ok(());
        }
        kill(self.pid, signal).doing(|| format!("send {signal} to {}", self.name))
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub async fn kill9(&self) -> Result<(), Error> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(Duration::from_secs(10)).await.map(drop)
    }

    /// Asks the process to end (SIGTERM).
    pub fn terminate(&self) -> Result<(), Error> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits for the process to end; the error shows the end of its log.
    pub async fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        let mut exited = self.exited.clone();
        match tokio::time::timeout(timeout, exited.wait_for(Option::is_some)).await {
            Ok(Ok(status)) => Ok(status.unwrap_or_default()),
            Ok(Err(closed)) => Err(self.failed("learn how it ended", closed.to_string())),
            Err(_) => Err(self.failed("see it end", format!("it still ran after {timeout:?}"))),
        }
    }

    /// Waits for a line that contains `pattern` and answers it; fails at once if the process
    /// ends without. The error shows the end of the log.
    pub async fn wait_for_log(&self, pattern: &str, timeout: Duration) -> Result<String, Error> {
        let doing = format!("find {pattern:?} in its log");
        let search = async {
            let mut interval = tokio::time::interval(LOG_INTERVAL);
            loop {
                interval.tick().await;
                // Asked first: what was written before the end is there when we read.
                let ended = self.exit_status();
                if let Some(line) = self.log.line(pattern)? {
                    return Ok(line);
                }
                if let Some(status) = ended {
                    return Err(io::Error::other(format!("it ended with {status}")));
                }
            }
        };
        match tokio::time::timeout(timeout, search).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(self.failed(&doing, error.to_string())),
            Err(_) => Err(self.failed(&doing, format!("it was not there after {timeout:?}"))),
        }
    }

    fn failed(&self, doing: &str, why: String) -> Error {
        Error::new(format!("{doing} ({})", self.name), format!("{why}\n{}", self.log.tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.signal(Signal::SIGKILL) {
            eprintln!("{error:?}");
        }
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

/// Writes the process down for a sweep. The death signal covers the moment before.
fn note(record: &Record, child: &Child) -> Option<ProcessId> {
    let id = ProcessId::running(child.id())?;
    record.process_started(id).ok()?;
    Some(id)
}

fn wait(mut child: Child, reaped: &Mutex<bool>) -> Option<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut reaped = lock(reaped);
    // Not reaped yet, so the group's number cannot be anyone else's.
    let _ = killpg(pid, Signal::SIGKILL);
    let status = child.wait().ok();
    *reaped = true;
    status
}

/// The flag is written whole, so a panic elsewhere cannot have torn it.
fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the kernel kill the program when the thread that starts it ends, however that comes.
#[allow(unsafe_code)]
pub(crate) fn die_with_us(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
}

#[allow(unsafe_code)]
fn enter_before_exec(command: &mut Command, namespace: &Namespace) {
    let namespace = Arc::clone(&namespace.file);
    let enter = move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
