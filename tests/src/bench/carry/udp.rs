//! As many small UDP packets as one sender gets through.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nix::unistd::{Pid, gettid};

use super::super::usage::FlowTime;
use super::Path;

const PAYLOAD: [u8; 200] = [0x5a; 200];
/// From the first packet to the first that counts.
const WARM_UP: Duration = Duration::from_millis(50);
/// How long a receiver that nothing reaches sleeps before it looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);
const RECEIVE_BUFFER: usize = 4 << 20;

/// What came through.
pub(in crate::bench) struct Flood {
    /// Packets received per second.
    pub(in crate::bench) per_second: f64,
    /// CPU time of the flow per packet received, in µs. What was sent and dropped is in it.
    pub(in crate::bench) cpu_micros: f64,
}

/// Sends without a pause and counts what arrives within `time`.
pub(in crate::bench) async fn flood(path: &Path, time: Duration) -> anyhow::Result<Flood> {
    let what = || format!("could not send UDP to {} over {}", path.target, path.name);
    let receiver = path.to.enter(|| receiver(path.target)).with_context(what)?;
    let target = receiver.local_addr()?;
    let sender = path.from.enter(|| sender(target)).with_context(what)?;
    let flow = Arc::new(Flow::default());
    let (started, ids) = mpsc::channel();
    let receiving = {
        let (flow, started) = (Arc::clone(&flow), started.clone());
        thread::spawn(move || {
            let _ = started.send(gettid());
            drop(started);
            flow.receive(&receiver)
        })
    };
    let sending = {
        let flow = Arc::clone(&flow);
        thread::spawn(move || {
            let _ = started.send(gettid());
            drop(started);
            flow.send(&sender)
        })
    };
    // Threads of ours that have panicked would be a bug; the flow is ended first in any case.
    let counted = count(&flow, &ids.iter().collect::<Vec<_>>(), time).await;
    flow.over.store(true, Ordering::Relaxed);
    for thread in [receiving, sending] {
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).with_context(what)?;
    }
    let (packets, elapsed, cpu) = counted?;
    ensure!(packets > 0, "{} carried no UDP packet", path.name);
    Ok(Flood {
        per_second: packets as f64 / elapsed.as_secs_f64(),
        cpu_micros: cpu.as_secs_f64() * 1e6 / packets as f64,
    })
}

async fn count(flow: &Flow, threads: &[Pid], time: Duration) -> anyhow::Result<(u64, Duration, Duration)> {
    tokio::time::sleep(WARM_UP).await;
    let cpu = FlowTime::of(threads)?;
    let spent = cpu.spent()?;
    let (before, begin) = (flow.arrived.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let (after, elapsed) = (flow.arrived.load(Ordering::Relaxed), begin.elapsed());
    Ok((after - before, elapsed, cpu.spent()? - spent))
}

#[derive(Default)]
struct Flow {
    arrived: AtomicU64,
    over: AtomicBool,
}

impl Flow {
    fn send(&self, socket: &UdpSocket) -> io::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            match socket.send(&PAYLOAD) {
                Ok(_) => {}
                // A queue on the way is full.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&self, socket: &UdpSocket) -> io::Result<()> {
        let mut buffer = [0; 2048];
        while !self.over.load(Ordering::Relaxed) {
            match socket.recv(&mut buffer) {
                Ok(length) if length == PAYLOAD.len() => {
                    self.arrived.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn receiver(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn sender(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
    socket.connect(target)?;
    Ok(socket)
}
