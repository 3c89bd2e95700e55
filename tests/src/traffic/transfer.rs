//! TCP streams between two namespaces, as fast as they go.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
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
}

/// A transfer to be run: `Transfer::to(ip).run(&from, &to)`.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    target: IpAddr,
    streams: usize,
    amount: Amount,
}

impl Transfer {
    /// One stream to `target`, an address of the receiving namespace, for a second.
    #[must_use]
    pub fn to(target: IpAddr) -> Self {
        Self { target, streams: 1, amount: Amount::For(Duration::from_secs(1)) }
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

    /// Sends from one namespace to another and answers what arrived. The threads that carry it
    /// are its own; nothing waits on the runtime's.
    pub async fn run(self, from: &Namespace, to: &Namespace) -> Result<Throughput, Error> {
        let doing = format!("send to {} from {}", self.target, from.full_name());
        let (from, to) = (from.clone(), to.clone());
        match tokio::task::spawn_blocking(move || self.run_blocking(&from, &to)).await {
            Ok(result) => result.map_err(|error| Error::new(doing, error)),
            Err(panic) => Err(Error::new(doing, panic)),
        }
    }

    fn run_blocking(self, from: &Namespace, to: &Namespace) -> io::Result<Throughput> {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(self.target, 0)))?;
        let target = listener.local_addr()?;
        let arrived = Arc::new(AtomicU64::new(0));
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..self.streams {
            let sender = from.enter(|| connect(target))?;
            let (receiver, _) = listener.accept()?;
            receiver.set_read_timeout(Some(SILENCE))?;
            sender.set_write_timeout(Some(SILENCE))?;
            senders.push(sender);
            receivers.push(receiver);
        }
        let begin = Instant::now();
        let amount = self.amount;
        let receiving: Vec<_> = receivers
            .into_iter()
            .map(|stream| {
                let arrived = Arc::clone(&arrived);
                thread::spawn(move || receive(stream, &arrived))
            })
            .collect();
        let sending: Vec<_> =
            senders.into_iter().map(|stream| thread::spawn(move || send(stream, amount, begin))).collect();
        join(sending)?;
        join(receiving)?;
        Ok(Throughput { bytes: arrived.load(Ordering::Relaxed), elapsed: begin.elapsed() })
    }
}

/// The listener's queue accepts, so this may run before `accept`.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&target.into(), SILENCE)?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, amount: Amount, begin: Instant) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let mut left = match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::For(_) => u64::MAX,
    };
    while left > 0 {
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
