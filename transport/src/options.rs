//! How patient a connection is.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::dialled::Dialled;
use crate::origins::Origins;

/// How long to wait for what. The defaults are the ones that agents use.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// For the look-up of one server's name, and for TCP and TLS to one of
    /// its addresses. 3 s.
    pub connect_timeout: Duration,
    /// After this time without a frame an HTTP/2 ping is sent, also while
    /// nothing is asked. 5 s.
    pub keep_alive: Duration,
    /// After this time in which nothing came back the connection is dead. 9 s.
    pub silence: Duration,
    /// Sent as `user-agent`: the program and its version.
    pub user_agent: String,
    /// Where the addresses that are dialled are noted.
    pub dialled: Dialled,
    /// Where the connections are noted.
    pub origins: Origins,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(5),
            silence: Duration::from_secs(9),
            user_agent: concat!("loden/", env!("CARGO_PKG_VERSION")).to_owned(),
            dialled: Dialled::default(),
            origins: Origins::default(),
        }
    }
}

impl ConnectOptions {
    /// Sets the socket so that a dead peer is noticed.
    pub(crate) fn apply(&self, socket: &TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let socket = SockRef::from(socket);
        let keepalive = TcpKeepalive::new().with_time(self.keep_alive).with_interval(self.keep_alive);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(self.silence))
    }
}
