//! TCP streams between two namespaces, as fast as they go.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::hosts::{Error, Namespace};

const CHUNK: usize = 128 * 1024;
/// A path that carries nothing for so long is broken.
const SILENCE: Duration = Duration::from_secs(10);

/// How much each stream sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// As many as it can in this time.
    For(Duration),
    /// As many as it can until it is stopped.
    Endless,
}

/// A transfer to be run: `Transfer::to(ip).run(&from, &to)`.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    target: IpAddr,
    streams: usize,
    amount: Amount,
    pinned: bool,
}

impl Transfer {
    /// One stream to `target`, an address of the receiving namespace, for a second.
    #[must_use]
    pub fn to(target: IpAddr) -> Self {
        Self { target, streams: 1, amount: Amount::For(Duration::from_secs(1)), pinned: false }
    }

    /// How many streams run at once; at least one.
    #[must_use]
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams.max(1);
        self
    }

    /// How much each stream sends.
    #[must_use]
    pub fn amount(mut self, amount: Amount) -> Self {
        self.amount = amount;
        self
    }

    /// Senders and receivers all stay on one processor, the last one. Then what arrives is what the path costs:
    /// how soon a sleeping processor is woken by another one has no part in it.
    #[must_use]
    pub fn pinned(mut self) -> Self {
        self.pinned = true;
        self
    }

    /// Sends from one namespace to another and answers what arrived. The threads that carry it
    /// are its own; nothing waits on the runtime's.
    pub async fn run(self, from: &Namespace, to: &Namespace) -> Result<Throughput, Error> {
        self.start(from, to).await?.finish().await
    }

    /// Begins to send from one namespace to another.
    pub async fn start(self, from: &Namespace, to: &Namespace) -> Result<RunningTransfer, Error> {
        let doing = format!("send to {} from {}", self.target, from.full_name());
        let (what, from, to) = (doing.clone(), from.clone(), to.clone());
        let started = tokio::task::spawn_blocking(move || self.start_blocking(what, &from, &to)).await;
        match started {
            Ok(Ok(running)) => Ok(running),
            Ok(Err(error)) => Err(Error::new(doing, error)),
            Err(panic) => Err(Error::new(doing, panic)),
        }
    }

    fn start_blocking(self, doing: String, from: &Namespace, to: &Namespace) -> io::Result<RunningTransfer> {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(self.target, 0)))?;
        let target = listener.local_addr()?;
        let mut pairs = Vec::new();
        for _ in 0..self.streams {
            let sender = from.enter(|| connect(target))?;
            let (receiver, _) = listener.accept()?;
            receiver.set_read_timeout(Some(SILENCE))?;
            sender.set_write_timeout(Some(SILENCE))?;
            pairs.push((sender, receiver));
        }
        let processor = if self.pinned { Some(last_processor()?) } else { None };
        let flow = Arc::new(Flow::default());
        let (amount, begin) = (self.amount, Instant::now());
        let (started, ids) = mpsc::channel();
        let mut threads = Vec::new();
        let mut spawn = |work: Work| {
            let started = started.clone();
            threads.push(thread::spawn(move || {
                processor.map(stay_on).transpose()?;
                // Nobody who has given up is waiting for it.
                let _ = started.send(gettid());
                drop(started);
                work()
            }));
        };
        for (sender, receiver) in pairs {
            let flow_of_receiver = Arc::clone(&flow);
            spawn(Box::new(move || receive(receiver, &flow_of_receiver.arrived)));
            let flow = Arc::clone(&flow);
            spawn(Box::new(move || send(sender, amount, begin, &flow.over)));
        }
        drop(started);
        Ok(RunningTransfer { doing, begin, flow, ids: ids.iter().collect(), threads })
    }
}

/// What a thread does.
type Work = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// What the threads of a transfer share.
#[derive(Debug, Default)]
struct Flow {
    arrived: AtomicU64,
    over: AtomicBool,
}

/// A transfer that runs until its amount is sent, or until it is stopped or dropped.
#[derive(Debug)]
pub struct RunningTransfer {
    doing: String,
    begin: Instant,
    flow: Arc<Flow>,
    ids: Vec<Pid>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl RunningTransfer {
    /// Payload bytes that the receivers have read so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.flow.arrived.load(Ordering::Relaxed)
    }

    /// The threads that carry it.
    #[must_use]
    pub fn threads(&self) -> &[Pid] {
        &self.ids
    }

    /// Sends no more and answers what arrived.
    pub async fn stop(self) -> Result<Throughput, Error> {
        self.flow.over.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until everything is sent, and answers what arrived.
    pub async fn finish(mut self) -> Result<Throughput, Error> {
        let threads = std::mem::take(&mut self.threads);
        match tokio::task::spawn_blocking(move || join(threads)).await {
            Ok(Ok(())) => Ok(Throughput { bytes: self.arrived(), elapsed: self.begin.elapsed() }),
            Ok(Err(error)) => Err(Error::new(&self.doing, error)),
            Err(panic) => Err(Error::new(&self.doing, panic)),
        }
    }
}

/// The threads end by themselves: senders at their next turn, receivers with them.
impl Drop for RunningTransfer {
    fn drop(&mut self) {
        self.flow.over.store(true, Ordering::Relaxed);
    }
}

/// The last processor that this program may use.
fn last_processor() -> io::Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rfind(|processor| allowed.is_set(*processor) == Ok(true));
    last.ok_or_else(|| io::Error::other("no processor is allowed"))
}

/// Keeps the calling thread on one processor.
fn stay_on(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The listener's queue accepts, so this may run before `accept`.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&target.into(), SILENCE)?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, amount: Amount, begin: Instant, over: &AtomicBool) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let mut left = match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::For(_) | Amount::Endless => u64::MAX,
    };
    while left > 0 && !over.load(Ordering::Relaxed) {
        if matches!(amount, Amount::For(time) if begin.elapsed() >= time) {
            break;
        }
        let length = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn join(threads: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}

/// What arrived, and in which time.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload bytes that the receiver read.
    pub bytes: u64,
    /// From the first byte sent to the last one read.
    pub elapsed: Duration,
}

impl Throughput {
    /// Payload in 10⁹ bits per second.
    #[must_use]
    pub fn gbit_per_second(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.elapsed.as_secs_f64()
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} Gbit/s", self.gbit_per_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_in_bits() {
        let second = Throughput { bytes: 1_250_000_000, elapsed: Duration::from_secs(1) };
        assert_eq!(second.to_string(), "10.00 Gbit/s");
    }
}
