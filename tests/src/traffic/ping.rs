//! Echo requests at a fixed pace from inside a namespace.
//!
//! ```text
//!  thread in the namespace:  send when due ─ ppoll until the next is due ─ note replies
//!                            stopped? wait for what is outstanding ──▶ PingReport
//! ```
//! On a busy machine the thread may not run for a second. Replies that come meanwhile wait in a buffer that holds
//! them all, and what is due by then is not sent at once.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{
            setsockopt,
            sockopt::{RcvBufForce, SndBufForce},
        },
        time::TimeSpec,
    },
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::watch;

use super::{
    backlog,
    echo::{HEADER, read_reply, write_request},
    report::{Echo, Fate, Mark, PingReport},
};
use crate::hosts::{Error, Namespace};

/// Of the socket, in bytes. Requests of others to this namespace land in it as well, and the usual buffer holds 256
/// packets: one burst of somebody who was late, while our thread does not run, and our reply finds no room.
const BUFFER: usize = 8 * 1024 * 1024;
/// Who is late sends this much faster than the pace, until it is kept again.
const CATCHING_UP: u32 = 5;

/// A ping to be started: `Ping::to(ip).interval(…).start(&namespace)`.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    target: IpAddr,
    interval: Duration,
    linger: Duration,
    size: usize,
}

impl Ping {
    /// Pings `target` every 5 ms with 56 bytes of ICMP payload, as ping(8) does.
    #[must_use]
    pub fn to(target: IpAddr) -> Self {
        Self { target, interval: Duration::from_millis(5), linger: Duration::from_secs(1), size: HEADER + 40 }
    }

    /// The time between two requests.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long replies are awaited after the last request; 1 s if not given.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The length of the ICMP message in bytes, header included; at least 24.
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes.max(HEADER);
        self
    }

    /// Begins to ping from inside a namespace.
    pub fn start(self, from: &Namespace) -> Result<RunningPing, Error> {
        let doing = format!("ping {} from {}", self.target, from.full_name());
        let socket = from.enter(|| self.socket()).map_err(|error| Error::new(&doing, error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let begin = Instant::now();
        let (answered, answers) = watch::channel(None);
        let probe = Probe::new(self, socket, begin, answered);
        let thread = thread::Builder::new().name(doing.clone()).spawn({
            let stop = Arc::clone(&stop);
            move || probe.run(&stop)
        });
        let thread = thread.map_err(|error| Error::new(&doing, error))?;
        Ok(RunningPing { doing, begin, stop, answers, marks: Mutex::default(), thread: Some(thread) })
    }

    fn socket(&self) -> io::Result<Socket> {
        let (domain, protocol) = match self.target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBufForce, &BUFFER)?;
        setsockopt(&socket, SndBufForce, &BUFFER)?;
        Ok(socket)
    }
}

/// Unique among the probers of the machine, so also of one namespace.
fn prober() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    u64::from(std::process::id()) << 32 | u64::from(number)
}

/// A ping that runs until [`stop`](Self::stop), or until it is dropped.
#[derive(Debug)]
pub struct RunningPing {
    doing: String,
    begin: Instant,
    stop: Arc<AtomicBool>,
    /// When the latest answered request was sent.
    answers: watch::Receiver<Option<Instant>>,
    marks: Mutex<Vec<Mark>>,
    thread: Option<JoinHandle<io::Result<PingReport>>>,
}

impl RunningPing {
    /// Puts an event on the timeline, now.
    pub fn mark(&self, label: impl Into<String>) {
        let mark = Mark { at: self.begin.elapsed(), label: label.into() };
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }

    /// Waits until a request that was sent from now on is answered; answers how long that took.
    pub async fn reach(&self, timeout: Duration) -> Result<Duration, Error> {
        let now = Instant::now();
        let mut answers = self.answers.clone();
        let answered = answers.wait_for(|sent| sent.is_some_and(|sent| sent >= now));
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(_)) => Ok(now.elapsed()),
            Ok(Err(_)) => Err(Error::new(&self.doing, "it has stopped")),
            Err(_) => Err(Error::new(&self.doing, format!("no reply within {timeout:?}"))),
        }
    }

    /// Sends no more, waits for outstanding replies, and answers what happened.
    pub async fn stop(mut self) -> Result<PingReport, Error> {
        self.stop.store(true, Ordering::Relaxed);
        // The thread drops its end of the channel last.
        while self.answers.changed().await.is_ok() {}
        let Some(thread) = self.thread.take() else {
            return Err(Error::new(&self.doing, "it has been stopped before"));
        };
        let mut report = match thread.join() {
            Ok(result) => result.map_err(|error| Error::new(&self.doing, error))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        report.marks = std::mem::take(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(report)
    }
}

/// The thread ends by itself at its next turn.
impl Drop for RunningPing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// When to send what is due then, or was.
fn next_send(due: Instant, now: Instant, interval: Duration) -> Instant {
    due.max(now + interval / CATCHING_UP)
}

/// The thread's state.
struct Probe {
    ping: Ping,
    prober: u64,
    socket: Socket,
    begin: Instant,
    /// Of the machine, at the beginning.
    overrun: u64,
    timeline: Vec<Echo>,
    outstanding: usize,
    duplicates: u64,
    answered: watch::Sender<Option<Instant>>,
}

impl Probe {
    fn new(ping: Ping, socket: Socket, begin: Instant, answered: watch::Sender<Option<Instant>>) -> Self {
        Self {
            ping,
            prober: prober(),
            socket,
            begin,
            overrun: backlog::overrun(),
            timeline: Vec::new(),
            outstanding: 0,
            duplicates: 0,
            answered,
        }
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<PingReport> {
        let mut due = self.begin;
        while !stop.load(Ordering::Relaxed) {
            self.send();
            due += self.ping.interval;
            self.receive_until(next_send(due, Instant::now(), self.ping.interval), |_| false)?;
        }
        self.receive_until(Instant::now() + self.ping.linger, |probe| probe.outstanding == 0)?;
        Ok(PingReport {
            begin: self.begin,
            interval: self.ping.interval,
            timeline: self.timeline,
            marks: Vec::new(),
            duplicates: self.duplicates,
            overrun: backlog::overrun().saturating_sub(self.overrun),
        })
    }

    fn send(&mut self) {
        let mut message = vec![0; self.ping.size];
        write_request(&mut message, self.ping.target, self.prober, self.timeline.len() as u64);
        let target = SockAddr::from(SocketAddr::new(self.ping.target, 0));
        let at = self.begin.elapsed();
        let fate = match self.socket.send_to(&message, &target) {
            Ok(_) => Fate::Lost,
            Err(error) => Fate::Refused(error.raw_os_error().unwrap_or_default()),
        };
        self.outstanding += usize::from(fate == Fate::Lost);
        self.timeline.push(Echo { at, fate });
    }

    fn receive_until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        loop {
            self.drain()?;
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() || done(self) {
                return Ok(());
            }
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut ready, Some(TimeSpec::from_duration(rest)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => {
                    if let Some(sequence) = read_reply(&buffer[..length], self.ping.target, self.prober) {
                        self.note(sequence);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, sequence: u64) {
        let now = self.begin.elapsed();
        let echo = usize::try_from(sequence).ok().and_then(|index| self.timeline.get_mut(index));
        let Some(echo) = echo else { return };
        if echo.round_trip().is_some() {
            self.duplicates += 1;
            return;
        }
        echo.fate = Fate::Replied(now - echo.at);
        self.outstanding = self.outstanding.saturating_sub(1);
        let sent = self.begin + echo.at;
        self.answered.send_replace(Some(sent));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hosts::Lab;

    #[tokio::test]
    async fn replies_wait_for_a_thread_that_does_not_run() {
        const MANY: usize = 1000;
        let lab = Lab::new("unread-ping").unwrap();
        let host = lab.host("a").build().await.unwrap();
        let ping = Ping::to(Ipv4Addr::LOCALHOST.into());
        let socket = host.enter(|| ping.socket()).unwrap();
        let mut probe = Probe::new(ping, socket, Instant::now(), watch::Sender::new(None));
        for _ in 0..MANY {
            probe.send();
        }
        probe.receive_until(Instant::now() + ping.linger, |probe| probe.outstanding == 0).unwrap();
        let answered = probe.timeline.iter().filter(|echo| echo.round_trip().is_some()).count();
        assert_eq!(answered, MANY);
    }

    #[test]
    fn who_is_late_catches_up_without_a_burst() {
        const PACE: Duration = Duration::from_millis(5);
        let begin = Instant::now();
        assert_eq!(next_send(begin + PACE, begin, PACE), begin + PACE);
        let (mut now, mut due, mut late) = (begin + Duration::from_secs(1), begin, 0);
        loop {
            due += PACE;
            let next = next_send(due, now, PACE);
            assert!(next >= now + PACE / CATCHING_UP, "a burst");
            now = next;
            if now == due {
                break;
            }
            late += 1;
        }
        // 200 that were late, and those that became due while they were sent.
        assert_eq!(late, 249);
    }
}
