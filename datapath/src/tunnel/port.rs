//! A UDP port: datagrams out, many at a time, and in.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

/// Bytes of the buffers of a port, in each direction; the limits of ordinary users do not hold for us.
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// Bytes of a control message with up to eight bytes of data (`CMSG_SPACE`).
const CONTROL: usize = 24;

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
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state })
    }

    /// Sends datagrams of `segment` bytes each, the last one of what is left.
    ///
    /// # Errors
    /// Whatever the kernel says; `WouldBlock`: its buffer is full.
    pub fn send(&self, to: &SockAddr, bytes: &[IoSlice<'_>], segment: usize) -> io::Result<()> {
        // No longer than a datagram.
        let control = segments_of(segment as u16);
        let message = MsgHdr::new().with_addr(to).with_buffers(bytes).with_control(&control);
        self.socket.sendmsg(&message, 0).map(drop)
    }

    /// Receives datagrams into buffers; those of one sender that follow each other come in one.
    ///
    /// # Errors
    /// Whatever the kernel says; `WouldBlock`: there are none.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv(UdpSockRef::from(&self.socket), buffers, meta)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A `UDP_SEGMENT` control message (udp(7)).
fn segments_of(size: u16) -> [u8; CONTROL] {
    let mut bytes = [0; CONTROL];
    let length = size_of::<libc::cmsghdr>() + size_of::<u16>();
    bytes[..8].copy_from_slice(&length.to_ne_bytes());
    bytes[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    bytes[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    bytes[16..18].copy_from_slice(&size.to_ne_bytes());
    bytes
}
