//! What the host and routers say of datagrams that were sent: the port's queue of errors (ip(7), `IP_RECVERR`).

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::header::{self, Header};
use super::peers::Remote;
use super::port::Port;
use super::view::View;

/// Room for control messages of a socket that asks for several.
const CONTROL: usize = 512;

/// Somebody says that a datagram was too long.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Where it was sent to.
    pub to: SocketAddr,
    /// Bytes that the outer packet may have.
    pub mtu: u32,
    /// Whether it was the host itself, which nobody can forge.
    pub is_local: bool,
    /// The beginning of the datagram, as far as it is quoted.
    pub quoted: &'a [u8],
}

impl View {
    /// Lowers the MTU of the way that is spoken of, if it is one of this network and whoever says it has seen a datagram
    /// of it: the key is in none that others could guess.
    pub fn heed(&self, said: &Said<'_>) {
        let mtu = said.mtu.try_into().unwrap_or(u16::MAX);
        if said.is_local {
            // Of IPv4 the host says no port, and what its own link takes is the same for all.
            let there = |remote: &&Remote| remote.endpoint.ip() == said.to.ip();
            self.peers.remotes().iter().filter(there).for_each(|remote| remote.path.refuse(mtu));
            return;
        }
        let Some(remote) = self.peers.at(said.to) else { return };
        let is_ours = |header: Header| header.vni == self.peers.vni() && header.key == remote.key;
        if quoted_header(said.quoted).is_some_and(is_ours) {
            remote.path.refuse(mtu);
        }
    }
}

/// The header of a datagram, whatever its flags are.
fn quoted_header(quoted: &[u8]) -> Option<Header> {
    let mut bytes = *quoted.first_chunk::<{ header::LENGTH }>()?;
    bytes[0] &= 0xf0;
    Header::decode(&bytes).ok().map(|(header, _)| header)
}

/// Takes all that was said out of the queue.
pub(super) fn each(port: &Port, mut heed: impl FnMut(&Said<'_>)) {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let mut space = vec![0; CONTROL];
    let mut bytes = [0; header::LENGTH];
    loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<SockaddrStorage>(port.raw(), &mut buffers, Some(&mut space), flags);
        let Ok(message) = received else { return };
        let (to, length) = (message.address.as_ref().and_then(endpoint), message.bytes);
        let errors = message.cmsgs().into_iter().flatten().filter_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                Some(error)
            }
            _ => None,
        });
        let error = errors.last().filter(|error| error.ee_errno == libc::EMSGSIZE as u32);
        let (Some(error), Some(to)) = (error, to) else { continue };
        let is_local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
        heed(&Said { to, mtu: error.ee_info, is_local, quoted: &bytes[..length.min(header::LENGTH)] });
    }
}

fn endpoint(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 =
        address.as_sockaddr_in().map(|address| SocketAddr::new(IpAddr::from(address.ip()), address.port()));
    v4.or_else(|| {
        address.as_sockaddr_in6().map(|address| SocketAddr::new(address.ip().into(), address.port()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loden_proto::model::{Key, Subnets, Vni};

    use super::*;
    use crate::tunnel::path::Path;
    use crate::tunnel::{Peers, Remote};

    fn key(number: u64) -> Key {
        Key::try_from(number).unwrap()
    }

    #[test]
    fn only_who_has_seen_the_datagram_is_heeded() {
        let to: SocketAddr = "192.0.2.2:8285".parse().unwrap();
        let vni = Vni::try_from(5).unwrap();
        let path = Arc::new(Path::new(to, 1460));
        let subnets = Subnets::new(["10.1.0.0/24".parse().unwrap()]).unwrap();
        let remote = Remote { endpoint: to, key: key(9), subnets, path: Arc::clone(&path) };
        let view =
            View { peers: Peers::new(vni, vec![key(1)], vec![remote]), gathers: true, v4: None, v6: None };
        let quote = |key| {
            let mut bytes = Header { vni, key, partial: true }.encode();
            bytes[0] |= 0b0010;
            bytes
        };
        let say = |to: &str, mtu, is_local, quoted: &[u8]| {
            view.heed(&Said { to: to.parse().unwrap(), mtu, is_local, quoted });
            path.mtu()
        };
        let (ours, others) = (quote(key(9)), quote(key(8)));
        assert_eq!(say("192.0.2.2:8285", 1400, false, &others), 1500, "without the key");
        assert_eq!(say("192.0.2.2:8285", 1400, false, &ours[..8]), 1500, "too little quoted");
        assert_eq!(say("192.0.2.2:8286", 1400, false, &ours), 1500, "of another port");
        assert_eq!(say("192.0.2.2:8285", 1400, false, &ours), 1400);
        assert_eq!(say("192.0.2.2:8285", 1450, true, &[]), 1400, "nobody raises it");
        assert_eq!(say("192.0.2.3:0", 1350, true, &[]), 1400, "somebody else");
        assert_eq!(say("192.0.2.2:0", 1300, true, &[]), 1300);
        assert_eq!(say("192.0.2.2:8285", 68, false, &ours), 1200, "less than passes everywhere");
    }
}
