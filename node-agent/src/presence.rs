//! Agents that run in this network namespace, as the kernel knows them.
//!
//! A lock in the state directory would not do: who cleans up may not know which one an agent uses. So each
//! agent has a socket with an abstract name, which belongs to the network namespace and ends with the process.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Before the process id.
const NAME: &str = "loden-agent/";
/// The sockets of the reader's namespace; an abstract name begins with `@`.
const SOCKETS: &str = "/proc/self/net/unix";

/// Says that this process is an agent, as long as the answer lives.
///
/// # Errors
/// The kernel refuses the socket.
pub fn announce() -> io::Result<UnixDatagram> {
    let name = format!("{NAME}{}", std::process::id());
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// The process ids of the agents that run.
///
/// # Errors
/// The kernel does not tell.
pub fn running() -> io::Result<Vec<u32>> {
    Ok(parse(&fs::read_to_string(Path::new(SOCKETS))?))
}

fn parse(sockets: &str) -> Vec<u32> {
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    names.filter_map(|name| name.strip_prefix(NAME)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_from_other_sockets() {
        let sockets = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00000000 0002 01 12345 @loden-agent/4711
0000000000000000: 00000002 00000000 00000000 0002 01 12346 /run/loden-agent/4712
0000000000000000: 00000002 00000000 00000000 0002 01 12347
0000000000000000: 00000002 00000000 00000000 0002 01 12348 @loden-agent/x
";
        assert_eq!(parse(sockets), [4711]);
    }

    #[test]
    fn an_agent_is_seen_until_it_ends() {
        let own = std::process::id();
        let present = announce().unwrap();
        assert!(running().unwrap().contains(&own));
        drop(present);
        assert!(!running().unwrap().contains(&own));
    }
}
