//! A tunnel that moves one packet with each system call and leaves no work to the kernel: the shape of flannel's `udp`
//! backend, kept to be compared with.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use tun_rs::DeviceBuilder;

/// How soon the loops see that they shall end, in milliseconds.
const LOOK: u16 = 100;
const LONGEST: usize = 2048;

/// Two loops that run until it is dropped.
pub(super) struct Naive {
    over: Arc<AtomicBool>,
    loops: Vec<JoinHandle<io::Result<()>>>,
}

impl Naive {
    /// Makes a device in the namespace of the calling thread, whose packets go to one peer.
    pub(super) fn start(name: &str, mtu: u16, local: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(name).mtu(mtu).build_sync()?;
        let device = Arc::new(device.as_fd().try_clone_to_owned()?);
        let socket = UdpSocket::bind(local)?;
        socket.connect(peer)?;
        socket.set_read_timeout(Some(Duration::from_millis(LOOK.into())))?;
        let (socket, over) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let (out, into) = ((Arc::clone(&device), Arc::clone(&socket)), (device, socket));
        let (over_out, over_into) = (Arc::clone(&over), Arc::clone(&over));
        let loops = vec![
            thread::spawn(move || send(&out.0, &out.1, &over_out)),
            thread::spawn(move || receive(&into.0, &into.1, &over_into)),
        ];
        Ok(Self { over, loops })
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.loops.drain(..) {
            // What went wrong has been seen as a path that carries nothing.
            let _ = thread.join();
        }
    }
}

fn send(device: &OwnedFd, socket: &UdpSocket, over: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; LONGEST];
    while !over.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(LOOK))? == 0 {
            continue;
        }
        let length = read(device, &mut buffer)?;
        // A full queue, or a peer that is not there yet.
        let _ = socket.send(&buffer[..length]);
    }
    Ok(())
}

fn receive(device: &OwnedFd, socket: &UdpSocket, over: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; LONGEST];
    while !over.load(Ordering::Relaxed) {
        if let Ok(length) = socket.recv(&mut buffer) {
            write(device, &buffer[..length])?;
        }
    }
    Ok(())
}
