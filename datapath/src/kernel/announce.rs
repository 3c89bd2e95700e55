//! Tells everybody on a link which MAC address has the host's addresses now: gratuitous ARP (RFC 5227, 3)
//! and unsolicited neighbour advertisements (RFC 4861, 7.2.6).
//!
//! The kernel would do it by itself with `arp_notify` and `ndisc_notify`, but those settings are the host's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use loden_proto::model::Family;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use socket2::{Domain, Protocol, Socket, Type};

use super::sysctl;
use crate::{DeviceName, Error};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What comes from elsewhere has less, and is not believed.
const HOPS: u32 = 255;

/// Tells it of these addresses, in the network namespace of the calling thread. Every one is tried.
pub(super) fn announce(device: DeviceName, addresses: &[IpAddr]) -> Result<(), Error> {
    let Some(link) = Link::of(device)? else { return Err(Error::NoDevice(device)) };
    let told = addresses.iter().map(|address| match address {
        IpAddr::V4(address) => link.announce_v4(*address),
        IpAddr::V6(address) => link.announce_v6(*address),
    });
    // Not the first one alone: the others would go untold.
    let told: Vec<io::Result<()>> = told.collect();
    Ok(told.into_iter().collect::<io::Result<()>>()?)
}

/// A link with MAC addresses.
struct Link {
    mac: [u8; 6],
    everybody: LinkAddr,
}

impl Link {
    /// `None` when there is none, or it has no MAC address.
    fn of(device: DeviceName) -> io::Result<Option<Self>> {
        let found = getifaddrs()?.filter(|entry| entry.interface_name == device.as_str()).find_map(|entry| {
            let mac = entry.address?.as_link_addr()?.addr()?;
            Some(Self { mac, everybody: *entry.broadcast?.as_link_addr()? })
        });
        Ok(found)
    }

    fn announce_v4(&self, address: Ipv4Addr) -> io::Result<()> {
        let Some(everybody) = self.everybody.addr() else { return Ok(()) };
        // Of no protocol: nothing is received.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let frame = arp(self.mac, everybody, address);
        sendto(socket.as_raw_fd(), &frame, &self.everybody, MsgFlags::empty())?;
        Ok(())
    }

    fn announce_v6(&self, address: Ipv6Addr) -> io::Result<()> {
        let index = u32::try_from(self.everybody.ifindex()).map_err(io::Error::other)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.bind(&SocketAddrV6::new(address, 0, 0, index).into())?;
        let advertisement = advertisement(self.mac, address, sysctl::forwards().contains(&Family::V6));
        // The kernel adds the checksum.
        socket.send_to(&advertisement, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into())?;
        Ok(())
    }
}

/// An ARP request for an address by who has it, with its Ethernet header.
fn arp(mac: [u8; 6], everybody: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    const ETHERTYPE: [u8; 2] = [0x08, 0x06];
    /// Ethernet, IPv4, the lengths of their addresses, a request.
    const HEADER: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let parts: [&[u8]; 8] =
        [&everybody, &mac, &ETHERTYPE, &HEADER, &mac, &address.octets(), &[0; 6], &address.octets()];
    parts.concat()
}

/// A neighbour advertisement that overrides what is known.
fn advertisement(mac: [u8; 6], address: Ipv6Addr, router: bool) -> Vec<u8> {
    const TYPE: u8 = 136;
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    /// Target link-layer address, in one unit of eight bytes.
    const OPTION: [u8; 2] = [2, 1];
    let flags = if router { ROUTER | OVERRIDE } else { OVERRIDE };
    let parts: [&[u8]; 4] = [&[TYPE, 0, 0, 0, flags, 0, 0, 0], &address.octets(), &OPTION, &mac];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement_is_a_request_for_ones_own_address() {
        let frame = arp(MAC, [0xff; 6], Ipv4Addr::new(192, 0, 2, 9));
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // a request
            2, 0, 0, 0, 0, 9, 192, 0, 2, 9, // from
            0, 0, 0, 0, 0, 0, 192, 0, 2, 9, // for
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_advertisement_overrides_and_says_who_forwards() {
        let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let bytes = advertisement(MAC, address, true);
        assert_eq!(bytes[..8], [136, 0, 0, 0, 0xa0, 0, 0, 0]);
        assert_eq!(bytes[8..24], address.octets());
        assert_eq!(bytes[24..], [2, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(advertisement(MAC, address, false)[4], 0x20);
    }
}
