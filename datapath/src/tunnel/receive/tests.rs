use std::net::{SocketAddr, UdpSocket};

use nix::sys::socket::{SockaddrIn, getsockname};

use super::*;

#[test]
fn a_loop_ends_though_there_is_something_to_receive() {
    let port = Arc::new(Port::open(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap());
    let local: SockaddrIn = getsockname(port.raw()).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"anything", (local.ip(), local.port())).unwrap();
    let counters = Arc::<Counters>::default();
    let receiver = Receiver { port, inlets: Arc::default(), counters: Arc::clone(&counters) };
    let stop = Stop::new().unwrap();
    stop.set();
    receiver.run(&stop).unwrap();
    assert!(Loss::ALL.into_iter().all(|why| counters.lost(why) == 0), "{counters:?}");
}
