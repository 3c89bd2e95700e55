//! Round trips of echo requests, one at a time, each sent when the last was answered.
//!
//! The kernel carries such a request to the far namespace and its reply back before `send`
//! returns, so this is what the path itself takes, without a sleeping processor in it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4Slice};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;

use super::Path;

/// As ping(8) sends.
const PAYLOAD: [u8; 56] = [0x5a; 56];
const LOST: Duration = Duration::from_secs(1);
/// Requests before the first that counts.
const WARM_UP: u16 = 100;

/// `count` round trips in µs.
pub(in crate::bench) async fn round_trips(path: &Path, count: usize) -> anyhow::Result<Vec<f64>> {
    let (from, target) = (path.from.clone(), path.target);
    let measured = tokio::task::spawn_blocking(move || {
        from.enter(|| {
            let mut prober = Prober::to(SocketAddr::new(target, 0))?;
            for _ in 0..WARM_UP {
                prober.once()?;
            }
            (0..count).map(|_| Ok(prober.once()?.as_secs_f64() * 1e6)).collect::<io::Result<Vec<f64>>>()
        })
    });
    measured.await?.with_context(|| format!("could not ping {} over {}", path.target, path.name))
}

struct Prober {
    socket: Socket,
    identifier: u16,
    sequence: u16,
}

impl Prober {
    fn to(target: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_read_timeout(Some(LOST))?;
        socket.connect(&target.into())?;
        // Other probers of the namespace, the library's ping among them, have their own.
        let identifier = rand::random();
        Ok(Self { socket, identifier, sequence: 0 })
    }

    /// Sends a request and waits for its reply.
    fn once(&mut self) -> io::Result<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let echo = IcmpEchoHeader { id: self.identifier, seq: self.sequence };
        let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &PAYLOAD);
        let mut request = [0; Icmpv4Header::MIN_LEN + PAYLOAD.len()];
        request[..Icmpv4Header::MIN_LEN].copy_from_slice(&header.to_bytes());
        request[Icmpv4Header::MIN_LEN..].copy_from_slice(&PAYLOAD);
        let mut packet = [0; 256];
        let begin = Instant::now();
        self.socket.send(&request)?;
        loop {
            let length = self.socket.read(&mut packet)?;
            let trip = begin.elapsed();
            if reply(&packet[..length]) == Some(echo) {
                return Ok(trip);
            }
        }
    }
}

/// Which request a packet, IP header first, is the reply to.
fn reply(packet: &[u8]) -> Option<IcmpEchoHeader> {
    let ip = Ipv4Slice::from_slice(packet).ok()?;
    match Icmpv4Slice::from_slice(ip.payload().payload).ok()?.icmp_type() {
        Icmpv4Type::EchoReply(echo) => Some(echo),
        _ => None,
    }
}
