//! A captured frame, taken apart.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, bail, ensure};
use etherparse::{IpNumber, Ipv4HeaderSlice, SlicedPacket, TransportSlice, UdpHeaderSlice};

use crate::hand::Peer;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const VXLAN: usize = 8;
/// Where the inner frame begins.
const INNER: usize = ETHERNET + IPV4 + UDP + VXLAN;

/// An IPv4 packet in VXLAN over IPv4 and UDP.
#[derive(Debug)]
pub(crate) struct Encapsulated {
    pub(crate) outer_macs: [[u8; 6]; 2],
    pub(crate) outer_addresses: [Ipv4Addr; 2],
    pub(crate) outer_source_port: u16,
    pub(crate) outer_destination_port: u16,
    pub(crate) outer_checksum: u16,
    pub(crate) vxlan: [u8; VXLAN],
    pub(crate) inner_macs: [[u8; 6]; 2],
    pub(crate) inner_addresses: [Ipv4Addr; 2],
    pub(crate) inner_is_udp: bool,
    shape: Shape,
}

/// What the VTEP or its kernel chooses beside the addresses.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Shape {
    tos: u8,
    ttl: u8,
    may_not_be_fragmented: bool,
    has_checksum: bool,
    inner_ttl: u8,
}

impl Encapsulated {
    pub(crate) fn parse(frame: &[u8]) -> anyhow::Result<Self> {
        ensure!(frame.len() > INNER, "too short");
        let outer = SlicedPacket::from_ethernet(frame)?;
        let ip = Ipv4HeaderSlice::from_slice(&frame[ETHERNET..])?;
        ensure!(ip.slice().len() == IPV4 && ip.protocol() == IpNumber::UDP, "no UDP over IPv4");
        let Some(TransportSlice::Udp(udp)) = &outer.transport else { bail!("no UDP") };
        ensure!(udp.destination_port() == 8472, "not VXLAN's port");
        let inner = &frame[INNER..];
        let packet = SlicedPacket::from_ethernet(inner)?;
        let inner_ip = Ipv4HeaderSlice::from_slice(&inner[ETHERNET..])?;
        let macs = |frame: &[u8]| -> anyhow::Result<[[u8; 6]; 2]> {
            Ok([frame[6..12].try_into()?, frame[..6].try_into()?])
        };
        Ok(Self {
            outer_macs: macs(frame)?,
            outer_addresses: [ip.source_addr(), ip.destination_addr()],
            outer_source_port: udp.source_port(),
            outer_destination_port: udp.destination_port(),
            outer_checksum: udp.checksum(),
            vxlan: frame[INNER - VXLAN..INNER].try_into()?,
            inner_macs: macs(inner)?,
            inner_addresses: [inner_ip.source_addr(), inner_ip.destination_addr()],
            inner_is_udp: matches!(packet.transport, Some(TransportSlice::Udp(_))),
            shape: Shape {
                tos: frame[ETHERNET + 1],
                ttl: ip.ttl(),
                may_not_be_fragmented: ip.dont_fragment(),
                has_checksum: udp.checksum() != 0,
                inner_ttl: inner_ip.ttl(),
            },
        })
    }

    /// Who sent it to whom, by the outer addresses.
    pub(crate) fn between<'a>(
        &self,
        peers: &'a BTreeMap<String, Peer>,
    ) -> anyhow::Result<(&'a str, &'a str)> {
        let of = |address: Ipv4Addr| {
            let peer = peers.values().find(|peer| peer.underlay == address);
            peer.map(|peer| peer.node.as_str()).with_context(|| format!("{address} is nobody's"))
        };
        Ok((of(self.outer_addresses[0])?, of(self.outer_addresses[1])?))
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape.clone()
    }
}

/// The outer checksum as it has to be once the inner one is filled in, which the kernel leaves to
/// the last device (local checksum offload, the kernel's `checksum-offloads.rst`).
pub(crate) fn whole_outer_checksum(frame: &[u8]) -> anyhow::Result<u16> {
    let mut frame = frame.to_vec();
    let inner_udp = INNER + ETHERNET + IPV4;
    let sum = udp_checksum(&frame[INNER + ETHERNET..])?;
    frame[inner_udp + 6..inner_udp + 8].copy_from_slice(&sum.to_be_bytes());
    udp_checksum(&frame[ETHERNET..])
}

/// The checksum that a UDP datagram in an IPv4 packet should have.
fn udp_checksum(packet: &[u8]) -> anyhow::Result<u16> {
    let ip = Ipv4HeaderSlice::from_slice(packet)?;
    let end = usize::from(ip.total_len());
    let datagram = packet.get(IPV4..end).context("the packet is cut off")?;
    let udp = UdpHeaderSlice::from_slice(datagram)?.to_header();
    Ok(udp.calc_checksum_ipv4_raw(ip.source(), ip.destination(), &datagram[UDP..])?)
}
