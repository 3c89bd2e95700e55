//! Who is behind which subnet, and who may send what: plain data, swapped whole.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use loden_proto::model::{Key, Subnets, Vni};

use super::header::{Header, Unreadable};
use super::inner::{Inner, Malformed};
use super::path::Path;
use crate::prefixes::Prefixes;

/// A peer as the control plane tells of it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Where it receives, and sends from.
    pub endpoint: SocketAddr,
    /// What it wants to be shown.
    pub key: Key,
    /// The pods behind it.
    pub subnets: Subnets,
    /// The way there, which outlives this table.
    pub path: Arc<Path>,
}

/// All peers of a network.
#[derive(Clone, Debug)]
pub struct Peers {
    vni: Vni,
    /// What senders show to this host: the present key, and for a while the one before.
    keys: Vec<Key>,
    remotes: Vec<Remote>,
    by_subnet: Prefixes<usize>,
    by_endpoint: HashMap<(IpAddr, u16), usize>,
}

/// Why a datagram does not enter the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// It does not begin with a header that is known.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is for a network that does not receive here.
    #[error("nobody receives VNI {0} here")]
    Network(Vni),
    /// It does not show the key of this host.
    #[error("it does not show the key of this host")]
    Key,
    /// No peer of the network sends from there.
    #[error("{0} is no peer of the network")]
    Sender(SocketAddr),
    /// It does not hold a whole packet.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The packet says that it is from where the peer is not.
    #[error("{0} is in no subnet of the peer")]
    Source(IpAddr),
}

impl Peers {
    /// The peers of a network. Subnets and endpoints of different peers differ; where they do not, the later one has
    /// what both claim.
    #[must_use]
    pub fn new(vni: Vni, keys: Vec<Key>, remotes: Vec<Remote>) -> Self {
        let mut by_subnet = Prefixes::default();
        let mut by_endpoint = HashMap::new();
        for (index, remote) in remotes.iter().enumerate() {
            for subnet in remote.subnets.iter() {
                by_subnet.insert(subnet, index);
            }
            by_endpoint.insert(place(remote.endpoint), index);
        }
        Self { vni, keys, remotes, by_subnet, by_endpoint }
    }

    /// The network.
    #[must_use]
    pub const fn vni(&self) -> Vni {
        self.vni
    }

    /// Who has an address.
    #[must_use]
    pub fn behind(&self, destination: IpAddr) -> Option<&Remote> {
        self.by_subnet.lookup(destination).map(|index| &self.remotes[*index])
    }

    /// All of them.
    #[must_use]
    pub fn remotes(&self) -> &[Remote] {
        &self.remotes
    }

    /// Who is behind an endpoint.
    #[must_use]
    pub fn at(&self, endpoint: SocketAddr) -> Option<&Remote> {
        self.by_endpoint.get(&place(endpoint)).map(|index| &self.remotes[*index])
    }

    /// The peer that a datagram is from, if it shows what it has to.
    ///
    /// # Errors
    /// It does not.
    pub fn sender(&self, from: SocketAddr, header: Header) -> Result<&Remote, Rejected> {
        self.index(from, header).map(|index| &self.remotes[index])
    }

    fn index(&self, from: SocketAddr, header: Header) -> Result<usize, Rejected> {
        if header.vni != self.vni {
            return Err(Rejected::Network(header.vni));
        }
        if !self.keys.contains(&header.key) {
            return Err(Rejected::Key);
        }
        self.by_endpoint.get(&place(from)).copied().ok_or(Rejected::Sender(from))
    }

    /// The packet behind a header, if it may enter.
    ///
    /// # Errors
    /// It may not.
    pub fn admit<'a>(
        &self,
        from: SocketAddr,
        header: Header,
        packet: &'a [u8],
    ) -> Result<Inner<'a>, Rejected> {
        let sender = self.index(from, header)?;
        let inner = Inner::parse(packet)?;
        if header.partial && inner.transport.is_none() {
            return Err(Malformed::Checksum.into());
        }
        if self.by_subnet.lookup(inner.source) != Some(&sender) {
            return Err(Rejected::Source(inner.source));
        }
        Ok(inner)
    }
}

/// Without what is only of this host: a scope, a flow label, IPv4 in IPv6.
fn place(endpoint: SocketAddr) -> (IpAddr, u16) {
    (endpoint.ip().to_canonical(), endpoint.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inner::Protocol;
    use crate::tunnel::testing::Shape;

    const KEY: u64 = 7;
    const FROM: &str = "192.0.2.1:8285";

    fn remote(endpoint: &str, subnet: &str) -> Remote {
        let subnets = Subnets::new([subnet.parse().unwrap()]).unwrap();
        let endpoint = endpoint.parse().unwrap();
        Remote { endpoint, key: key(99), subnets, path: Arc::new(Path::new(endpoint, 1400)) }
    }

    fn key(number: u64) -> Key {
        Key::try_from(number).unwrap()
    }

    fn vni(number: u32) -> Vni {
        Vni::try_from(number).unwrap()
    }

    fn peers() -> Peers {
        let remotes = vec![remote(FROM, "10.1.0.0/24"), remote("[2001:db8::2]:8286", "10.3.0.0/24")];
        Peers::new(vni(5), vec![key(8), key(KEY)], remotes)
    }

    /// From 10.1.0.2.
    fn packet() -> Vec<u8> {
        let shape =
            Shape { v6: false, protocol: Protocol::Tcp, flags: 0x10, id: 0, sequence: 0, tos: 0, options: 0 };
        shape.build(&[1, 2, 3], 3).packet
    }

    fn datagram(vni: Vni, number: u64, packet: &[u8]) -> Vec<u8> {
        [&Header { vni, key: key(number), partial: true }.encode()[..], packet].concat()
    }

    fn admit(from: &str, datagram: &[u8]) -> Result<usize, Rejected> {
        let (header, packet) = Header::decode(datagram)?;
        peers().admit(from.parse().unwrap(), header, packet).map(|inner| inner.packet.len())
    }

    #[test]
    fn a_packet_of_a_peer_enters_with_the_present_key_and_with_the_one_before() {
        for key in [KEY, 8] {
            assert_eq!(admit(FROM, &datagram(vni(5), key, &packet())), Ok(43));
        }
        assert_eq!(
            admit("[::ffff:192.0.2.1]:8285", &datagram(vni(5), KEY, &packet())),
            Ok(43),
            "a socket of both"
        );
    }

    #[test]
    fn whoever_is_no_peer_is_rejected_with_the_reason() {
        let good = datagram(vni(5), KEY, &packet());
        let other = "192.0.2.9:8285".parse().unwrap();
        assert_eq!(admit("192.0.2.9:8285", &good), Err(Rejected::Sender(other)));
        let port = "192.0.2.1:8286".parse().unwrap();
        assert_eq!(admit("192.0.2.1:8286", &good), Err(Rejected::Sender(port)));
        assert_eq!(admit(FROM, &datagram(vni(5), 9, &packet())), Err(Rejected::Key));
        assert_eq!(admit(FROM, &datagram(vni(6), KEY, &packet())), Err(Rejected::Network(vni(6))));
        let elsewhere = Rejected::Source("10.1.0.2".parse().unwrap());
        assert_eq!(admit("[2001:db8::2]:8286", &good), Err(elsewhere), "another peer's pod");
        assert_eq!(admit(FROM, &good[..5]), Err(Unreadable::Short.into()));
        let cut = admit(FROM, &good[..good.len() - 1]);
        assert_eq!(cut, Err(Malformed::Length { said: 43, has: 42 }.into()));
        let long = [&good[..], &[0]].concat();
        assert_eq!(admit(FROM, &long), Err(Malformed::Length { said: 43, has: 44 }.into()));
        let mut icmp = packet();
        icmp[9] = 1;
        assert_eq!(admit(FROM, &datagram(vni(5), KEY, &icmp)), Err(Malformed::Checksum.into()));
    }

    #[test]
    fn a_packet_goes_to_whom_the_address_belongs() {
        let behind = |address: &str| peers().behind(address.parse().unwrap()).map(|remote| remote.endpoint);
        assert_eq!(behind("10.1.0.77"), FROM.parse().ok());
        assert_eq!(behind("10.3.0.1"), "[2001:db8::2]:8286".parse().ok());
        assert_eq!(behind("10.2.0.1"), None);
        assert_eq!(behind("fd00::1"), None);
    }
}
