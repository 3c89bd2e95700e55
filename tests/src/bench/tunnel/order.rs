//! Whether packets of a flow keep their order, and whether TCP has to send any of them again.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::super::carry::Path;
use super::super::{Better, Metric, Scale, Series};
use super::stage::{RAW, UDP};
use crate::hosts::Namespace;
use crate::traffic::{Amount, Transfer};

/// Packets that must have arrived in order, of all flows together.
const PACKETS: usize = 10_000_000;
const FLOWS: usize = 4;
/// How long retransmits are counted, in hundredths of a second.
const WATCH: usize = 3_000;
const RECEIVE_BUFFER: usize = 4 << 20;
/// How long a receiver waits before it looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn metrics(paths: &[Path], scale: &Scale) -> anyhow::Result<Vec<Metric>> {
    let named = |name: &str| {
        paths.iter().find(|path| path.name == name).with_context(|| format!("there is no path {name}"))
    };
    let (ours, raw) = (named(UDP)?.clone(), named(RAW)?.clone());
    let packets = scale.count(PACKETS);
    let numbered = ours.clone();
    let seen = tokio::task::spawn_blocking(move || reordered(&numbered, packets / FLOWS)).await??;
    ensure!(seen.arrived >= packets, "only {} of {packets} numbered packets arrived", seen.arrived);
    let time = Duration::from_millis(10 * scale.count(WATCH) as u64);
    let again = [retransmits(&raw, time).await?, retransmits(&ours, time).await?];
    let series = |value: u64| Series::from_iter([value as f64]);
    Ok(vec![
        Metric::alone("reordered", "packets", &series(seen.reordered as u64))?,
        Metric::against(
            "retransmits",
            "segments",
            Better::Lower,
            &series(again[1]),
            (RAW, &series(again[0])),
        )?,
    ])
}

/// Segments that were sent again while one flow ran.
async fn retransmits(path: &Path, time: Duration) -> anyhow::Result<u64> {
    let before = retransmitted(&path.from)?;
    Transfer::to(path.target).amount(Amount::For(time)).run(&path.from, &path.to).await?;
    Ok(retransmitted(&path.from)? - before)
}

/// `RetransSegs` of a namespace (RFC 4022).
fn retransmitted(namespace: &Namespace) -> anyhow::Result<u64> {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut rows =
        text.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_ascii_whitespace);
    let (Some(mut names), Some(mut values)) = (rows.next(), rows.next()) else {
        anyhow::bail!("/proc/net/snmp tells nothing of TCP");
    };
    let place = names.position(|name| name == "RetransSegs").context("no RetransSegs")?;
    values.nth(place).and_then(|value| value.parse().ok()).context("RetransSegs is no number")
}

/// What was seen of numbered packets.
#[derive(Clone, Copy, Default)]
struct Seen {
    arrived: usize,
    /// Came behind one that was sent later.
    reordered: usize,
}

/// Sends numbered packets in several flows until so many of each have arrived. Some may be lost; none may be overtaken.
fn reordered(path: &Path, each: usize) -> io::Result<Seen> {
    let over = Arc::new(AtomicBool::new(false));
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..FLOWS {
        let receiver = path.to.enter(|| UdpSocket::bind(SocketAddr::new(path.target, 0)))?;
        setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER)?;
        receiver.set_read_timeout(Some(LOOK))?;
        let target = receiver.local_addr()?;
        let sender = path.from.enter(|| {
            let sender = UdpSocket::bind("0.0.0.0:0")?;
            sender.connect(target)?;
            io::Result::Ok(sender)
        })?;
        let (done, told) = (Arc::new(AtomicBool::new(false)), Arc::clone(&over));
        let received = Arc::clone(&done);
        senders.push(thread::spawn(move || send(&sender, &received)));
        receivers.push(thread::spawn(move || {
            let seen = receive(&receiver, each, &told);
            done.store(true, Ordering::Relaxed);
            seen
        }));
    }
    let mut all = Seen::default();
    for receiver in receivers {
        let seen = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if seen.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        let seen = seen?;
        all = Seen { arrived: all.arrived + seen.arrived, reordered: all.reordered + seen.reordered };
    }
    for sender in senders {
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(all)
}

fn send(socket: &UdpSocket, received: &AtomicBool) -> io::Result<()> {
    let mut number = 0_u64;
    while !received.load(Ordering::Relaxed) {
        match socket.send(&number.to_be_bytes()) {
            Ok(_) => number += 1,
            // A queue on the way is full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(socket: &UdpSocket, each: usize, over: &AtomicBool) -> io::Result<Seen> {
    let (mut seen, mut next, mut buffer) = (Seen::default(), 0, [0; 8]);
    while seen.arrived < each && !over.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let number = u64::from_be_bytes(buffer);
                seen.arrived += 1;
                seen.reordered += usize::from(number < next);
                next = next.max(number + 1);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}
