//! The frames of one link, as they are on the wire, by a packet socket (packet(7)).
//!
//! A frame that its sender left to the device's checksum offload is captured without its
//! checksum on a veth; one that was encapsulated has it.

use std::{
    io::ErrorKind,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::hosts::{Error, Namespace};

/// How often the thread looks whether it shall stop.
const TURN_MS: u8 = 20;
const RECEIVE_BUFFER: usize = 4 << 20;

/// Which way a frame went, as the link's owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in on the link.
    In,
    /// It went out on the link.
    Out,
}

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read.
    pub at: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// The frame, from its Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A running capture; ends when it is dropped.
#[derive(Debug)]
pub struct Capture {
    doing: String,
    frames: Arc<Mutex<Vec<Frame>>>,
    count: watch::Receiver<usize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Errno>>>,
}

impl Capture {
    /// Begins to keep the frames of `link` that `wanted` (given the whole frame) asks for. When
    /// it returns, the socket is open: what is sent from now on is seen.
    pub async fn start(
        namespace: &Namespace,
        link: &str,
        wanted: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self, Error> {
        let doing = format!("capture {link} in {}", namespace.full_name());
        let index = namespace.link_index(link).await?;
        let socket = namespace.enter(open).map_err(|error| Error::new(&doing, error))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, count) = watch::channel(0);
        let reader = Reader { socket, index: index as usize, frames: Arc::clone(&frames), counted };
        let thread = thread::Builder::new().name(doing.clone()).spawn({
            let stop = Arc::clone(&stop);
            move || reader.run(&stop, wanted)
        });
        let thread = Some(thread.map_err(|error| Error::new(&doing, error))?);
        Ok(Self { doing, frames, count, stop, thread })
    }

    /// The frames kept so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.frames).clone()
    }

    /// Waits until `count` frames were kept and answers all of them.
    pub async fn wait(&self, count: usize, timeout: Duration) -> Result<Vec<Frame>, Error> {
        let mut counts = self.count.clone();
        let enough = counts.wait_for(|&kept| kept >= count);
        match tokio::time::timeout(timeout, enough).await {
            Ok(Ok(_)) => Ok(self.frames()),
            Ok(Err(_)) => Err(Error::new(&self.doing, "the capture has ended")),
            Err(_) => {
                let kept = self.frames().len();
                Err(Error::new(&self.doing, format!("{kept} of {count} frames after {timeout:?}")))
            }
        }
    }

    /// Ends the capture and answers the frames it kept.
    pub fn stop(mut self) -> Result<Vec<Frame>, Error> {
        self.end().map_err(|errno| Error::new(&self.doing, errno))?;
        Ok(std::mem::take(&mut lock(&self.frames)))
    }

    fn end(&mut self) -> Result<(), Errno> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Frames are pushed whole, so a panic elsewhere has not torn the list.
fn lock(frames: &Mutex<Vec<Frame>>) -> std::sync::MutexGuard<'_, Vec<Frame>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears every link of the calling thread's namespace; the reader picks one by its index.
fn open() -> std::io::Result<Socket> {
    // The kernel wants the protocol in network byte order.
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

struct Reader {
    socket: Socket,
    index: usize,
    frames: Arc<Mutex<Vec<Frame>>>,
    counted: watch::Sender<usize>,
}

impl Reader {
    fn run(self, stop: &AtomicBool, wanted: impl Fn(&[u8]) -> bool) -> Result<(), Errno> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let last = stop.load(Ordering::Relaxed);
            self.drain(&mut buffer, &wanted)?;
            if last {
                return Ok(());
            }
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(TURN_MS)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn drain(&self, buffer: &mut [u8], wanted: &impl Fn(&[u8]) -> bool) -> Result<(), Errno> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
                Ok((length, from)) => self.note(&buffer[..length], from, wanted),
                // ENETDOWN: a link of the namespace went down; the socket goes on.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(errno) if std::io::Error::from(errno).kind() == ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    fn note(&self, bytes: &[u8], from: Option<LinkAddr>, wanted: &impl Fn(&[u8]) -> bool) {
        let Some(from) = from.filter(|from| from.ifindex() == self.index && wanted(bytes)) else {
            return;
        };
        let direction = if from.pkttype() == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In };
        let frame = Frame { at: Instant::now(), direction, bytes: bytes.to_vec() };
        let kept = {
            let mut frames = lock(&self.frames);
            frames.push(frame);
            frames.len()
        };
        self.counted.send_replace(kept);
    }
}
