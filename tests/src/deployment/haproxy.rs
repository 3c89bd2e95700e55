//! haproxy with the configuration that operators copy, on a host of its own.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Daemon;
use crate::hosts::{Host, Lab};
use crate::wait;

/// The file in the repository.
const CONFIGURATION: &str = include_str!("../../../deploy/haproxy/haproxy.cfg");
/// The servers that it names.
const DOCUMENTED: [&str; 3] = ["192.0.2.1:7443", "192.0.2.2:7443", "192.0.2.3:7443"];
/// How many backends name all of them, in this order.
const BACKENDS: usize = 2;
/// Where it listens.
const PORT: u16 = 7443;
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(30);

/// haproxy in front of three servers.
#[derive(Debug)]
pub struct Haproxy {
    daemon: Daemon,
    address: IpAddr,
}

impl Haproxy {
    /// On this host, which has this address; not started.
    ///
    /// # Errors
    /// When the file no longer names the servers that are to be replaced, or the disk refuses.
    pub fn prepare(lab: &Lab, host: Host, address: IpAddr, servers: [SocketAddr; 3]) -> anyhow::Result<Self> {
        let file = lab.directory().join("haproxy.cfg");
        fs::write(&file, configuration(servers)?)?;
        let arguments: Vec<OsString> = vec!["-db".into(), "-f".into(), file.into()];
        Ok(Self { daemon: Daemon::new(host, "haproxy", arguments), address })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.daemon.spawn()?;
        self.listens().await
    }

    /// Waits until it takes connections, whether or not there is a server for them.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn listens(&self) -> anyhow::Result<()> {
        let listens = wait::until("haproxy to listen", START, async || {
            self.daemon.host.connect(self.address()).await.map(drop)
        });
        listens.await.with_context(|| {
            self.daemon.process.as_ref().map(|process| process.log().tail()).unwrap_or_default()
        })
    }

    /// The process and its host.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The same, to be killed and started.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// What clients dial.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }
}

/// The file with these servers.
fn configuration(servers: [SocketAddr; 3]) -> anyhow::Result<String> {
    // One after the other, so that a server that is one of the documented ones is not replaced again.
    let (mut text, mut rest) = (String::new(), CONFIGURATION);
    let pairs = DOCUMENTED.into_iter().zip(servers);
    for (documented, server) in pairs.cycle().take(BACKENDS * DOCUMENTED.len()) {
        let (before, after) = rest.split_once(documented).with_context(|| {
            format!("deploy/haproxy/haproxy.cfg does not name {documented}, in this order")
        })?;
        text += before;
        text += &server.to_string();
        rest = after;
    }
    ensure!(!rest.contains(":7443"), "deploy/haproxy/haproxy.cfg names further servers");
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_takes_the_place_of_a_documented_one() {
        let servers = ["192.0.2.3:7443", "[2001:db8::2]:7443", "192.0.2.1:7443"];
        let text = configuration(servers.map(|server| server.parse().unwrap())).unwrap();
        let named: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("server control-")).collect();
        assert_eq!(named, ["1 192.0.2.3:7443", "2 [2001:db8::2]:7443", "3 192.0.2.1:7443"].repeat(BACKENDS));
    }
}
