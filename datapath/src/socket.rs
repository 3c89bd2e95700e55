//! Netlink sockets, whatever family of messages they carry.

use std::io;

use netlink_sys::Socket;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use tokio::io::unix::AsyncFd;

/// Sets the receive buffer, beyond `net.core.rmem_max` where that is allowed.
pub(crate) fn enlarge(socket: &Socket, bytes: usize) -> io::Result<()> {
    let forced = setsockopt(socket, RcvBufForce, &bytes);
    Ok(forced.or_else(|_| setsockopt(socket, RcvBuf, &bytes))?)
}

#[allow(unsafe_code, reason = "the safe constructor is deprecated; see SAFETY")]
pub(crate) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, answers with the same one as long
    // as it lives, and closes it only when it is dropped, after the `AsyncFd`
    // has taken it out of the reactor.
    let registered = unsafe { AsyncFd::register(socket) };
    registered.map_err(io::Error::from)
}
