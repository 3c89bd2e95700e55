//! A UDP port: datagrams out, many at a time, and in.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

use super::ecn::Ecn;

/// Bytes of the buffers of a port, in each direction; the limits of ordinary users do not hold for us.
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// Bytes of a control message with up to eight bytes of data (`CMSG_SPACE`).
const CONTROL: usize = 24;

/// Datagrams that are sent at once.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'a> {
    /// Their bytes, in order.
    pub bytes: &'a [IoSlice<'a>],
    /// Bytes of each but the last, which has what is left.
    pub segment: usize,
    /// The congestion mark of all. The other bits of that byte, which ask for a service, are 0.
    pub mark: Ecn,
}

/// One socket, for all networks that use the port.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    state: UdpSocketState,
}

impl Port {
    /// Opens a port on one address; datagrams are never fragmented.
    ///
    /// # Errors
    /// The address is in use or not of this host.
    pub fn open(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)?;
        socket.bind(&local.into())?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        }
        Self::of(socket)
    }

    /// Takes up a socket that is open already, if it is of that address.
    pub(super) fn adopt(descriptor: OwnedFd, local: SocketAddr) -> Option<Self> {
        let socket = Socket::from(descriptor);
        let bound = socket.local_addr().ok().and_then(|address| address.as_socket());
        let is_it = bound == Some(local) && socket.r#type().is_ok_and(|kind| kind == Type::DGRAM);
        Self::of(socket).ok().filter(|_| is_it)
    }

    fn of(socket: Socket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state })
    }

    /// Sends datagrams.
    ///
    /// # Errors
    /// Whatever the kernel says; `WouldBlock`: its buffer is full.
    pub fn send(&self, to: &SockAddr, datagrams: Datagrams<'_>) -> io::Result<()> {
        let Datagrams { bytes, segment, mark } = datagrams;
        let mut control = [0; 2 * CONTROL];
        let (level, kind) = if to.is_ipv6() {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS)
        };
        control_message(&mut control[..CONTROL], level, kind, &i32::from(mark as u8).to_ne_bytes());
        // Of one alone the kernel says how long it could be.
        let is_alone = bytes.iter().map(|bytes| bytes.len()).sum::<usize>() <= segment;
        if !is_alone {
            // No longer than a datagram.
            let size = (segment as u16).to_ne_bytes();
            control_message(&mut control[CONTROL..], libc::SOL_UDP, libc::UDP_SEGMENT, &size);
        }
        let control = if is_alone { &control[..CONTROL] } else { &control[..] };
        let message = MsgHdr::new().with_addr(to).with_buffers(bytes).with_control(control);
        match self.socket.sendmsg(&message, 0) {
            // What a router has said of an earlier one is answered to whoever comes next, once.
            Err(error) if is_of_the_way(&error) => self.socket.sendmsg(&message, 0).map(drop),
            sent => sent.map(drop),
        }
    }

    /// Has the kernel merge datagrams of one sender that follow each other, or not; answers whether it does.
    pub(super) fn merge(&self, merges: bool) -> bool {
        setsockopt(&self.socket, sockopt::UdpGroSegment, &merges).is_ok() && merges
    }

    /// Receives datagrams into buffers; those of one sender that follow each other come in one.
    ///
    /// # Errors
    /// Whatever the kernel says; `WouldBlock`: there are none.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv(UdpSockRef::from(&self.socket), buffers, meta)
    }
}

/// Whether the kernel does not send many datagrams at once: the way has no checksum offload, encrypts, or does something
/// else to them that they stand in the way of (udp(7), `UDP_SEGMENT`).
pub(super) fn refuses_many(error: &io::Error) -> bool {
    const ALL: [i32; 5] = [libc::EIO, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::EMSGSIZE];
    error.raw_os_error().is_some_and(|code| ALL.contains(&code))
}

/// Whether an error may be what a router has said of some datagram. It is in the queue of errors as well.
pub(super) fn is_of_the_way(error: &io::Error) -> bool {
    const ALL: [i32; 11] = [
        libc::EMSGSIZE,
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::ENOPROTOOPT,
        libc::EPROTO,
        libc::EACCES,
        libc::EOPNOTSUPP,
        libc::ENETDOWN,
    ];
    error.raw_os_error().is_some_and(|code| ALL.contains(&code))
}

impl Port {
    pub(super) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Writes a control message (cmsg(3)).
fn control_message(to: &mut [u8], level: i32, kind: i32, data: &[u8]) {
    let head = size_of::<libc::cmsghdr>();
    to[..8].copy_from_slice(&(head + data.len()).to_ne_bytes());
    to[8..12].copy_from_slice(&level.to_ne_bytes());
    to[12..16].copy_from_slice(&kind.to_ne_bytes());
    to[head..head + data.len()].copy_from_slice(data);
}
