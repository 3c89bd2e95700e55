//! Netlink sockets, whatever family of messages they carry.

use std::io;

use netlink_sys::Socket;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Largest datagram of notifications, in bytes.
const DATAGRAM: usize = 64 * 1024;

/// Sets the receive buffer, beyond `net.core.rmem_max` where that is allowed.
pub(crate) fn enlarge(socket: &Socket, bytes: usize) -> io::Result<()> {
    let forced = setsockopt(socket, RcvBufForce, &bytes);
    Ok(forced.or_else(|_| setsockopt(socket, RcvBuf, &bytes))?)
}

/// Sends what `read` makes of each datagram until nobody listens any more. A slow listener is waited for: the
/// socket's buffer is the queue. Its `overrun` is the last hint: the kernel drops what follows, without a word,
/// until the queue has been read to its end (`NETLINK_S_CONGESTED`), so somebody has to listen anew.
pub(crate) async fn listen<H, I: IntoIterator<Item = H>>(
    socket: Socket,
    hints: mpsc::Sender<H>,
    overrun: H,
    mut read: impl FnMut(&[u8]) -> I,
) -> io::Result<()> {
    let socket = register(socket)?;
    let mut received = Vec::with_capacity(DATAGRAM);
    loop {
        let mut ready = tokio::select! {
            ready = socket.readable() => ready?,
            () = hints.closed() => return Ok(()),
        };
        received.clear();
        match ready.try_io(|socket| socket.get_ref().recv(&mut received, 0)) {
            Ok(Ok(_)) => {}
            Err(_) => continue,
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                // Whoever does not listen any more need not know.
                let _ = hints.send(overrun).await;
                return Ok(());
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(error)) => return Err(error),
        }
        for hint in read(&received) {
            if hints.send(hint).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[allow(unsafe_code, reason = "the safe constructor is deprecated; see SAFETY")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, answers with the same one as long
    // as it lives, and closes it only when it is dropped, after the `AsyncFd`
    // has taken it out of the reactor.
    let registered = unsafe { AsyncFd::register(socket) };
    registered.map_err(io::Error::from)
}
