//! The UDP tunnel: one TUN device, and per peer an endpoint and routes.
//!
//! ```text
//!  10.244.2.0/24 ───route──▶ loden1u ──the subnet's──▶ 192.0.2.9 port 8285
//!  2001:db8:2::/64 ─route──▶ loden1u ──────────────────▶ the same
//! ```
//!
//! A TUN device has no neighbours: routes lead to it without a next hop. Which peer has a packet's destination is looked
//! up again in the tunnel.

use std::iter;
use std::net::{IpAddr, SocketAddr};

use loden_proto::model::{Family, Network, Peer, UdpBackend, UdpReceiver};

use super::{
    Entries, Me, Reason, Underlay, device, list, longest, of_no_use, prefer_reachable, routed, tunnel_mtu,
};
use crate::tables::{Kind, RemoteKey, Route, Tables};
use crate::tunnel::engine::{Behind, Listening};

/// MTU of the tunnel in bytes, over whichever underlay.
pub(super) fn mtu(network: &Network, underlay: &Underlay) -> u32 {
    tunnel_mtu(network, underlay, Family::udp_overhead)
}

pub(super) fn own_tables(network: &Network, backend: UdpBackend, me: &Me) -> Tables {
    let port = me.udp_port.unwrap_or(backend.port).get();
    let locals = me.underlay.addresses().map(|local| SocketAddr::new(local, port));
    let locals: Vec<_> = locals.collect();
    if locals.is_empty() || me.keys.is_empty() {
        return Tables::default();
    }
    let (name, mtu) = (device::of_udp(network.vni), mtu(network, &me.underlay));
    let mut tables = device::tables(network, me, name, "udp", Kind::Tun, mtu);
    // No packet is longer (RFC 791, 3.1).
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let listening =
        Listening { vni: network.vni, locals, keys: me.keys.clone(), mtu, limits: backend.into() };
    tables.listening.insert(name, listening);
    tables
}

pub(super) fn peer_tables(network: &Network, me: &Me, peer: &Peer) -> Entries {
    let (receiver, address, lacking) = match choose(network, me, peer) {
        Ok(chosen) => chosen,
        Err(reason) => return Entries::lacking(reason),
    };
    let device = device::of_udp(network.vni);
    let endpoint = SocketAddr::new(address, receiver.port.get());
    let mut tables = Tables::default();
    tables
        .remotes
        .insert(RemoteKey { device, endpoint }, Behind { key: receiver.key, subnets: peer.subnets });
    let told = mtu(network, &me.underlay);
    let mtu = longest(told, iter::once(receiver.mtu), told);
    for prefix in me.usable(&peer.subnets) {
        tables.routes.insert(routed::key(prefix), Route { device, gateway: None, onlink: false, mtu });
    }
    Entries { tables, lacking }
}

/// The peer's receiver that this host sends to: of the preferred underlay family that both have, where a route leads if
/// one does; and why packets do not leave for it.
fn choose<'a>(
    network: &Network,
    me: &Me,
    peer: &'a Peer,
) -> Result<(&'a UdpReceiver, IpAddr, Option<Reason>), Reason> {
    let all = || peer.endpoint.udp();
    let choices = me.underlay.families().filter_map(|family| {
        let address = peer.endpoint.address(family)?;
        let fits = |receiver: &&UdpReceiver| receiver.family == family && receiver.vni == network.vni;
        Some((all().find(fits)?, address))
    });
    prefer_reachable(me, choices).ok_or_else(|| {
        of_no_use(all().map(|receiver| receiver.vni), network.vni).unwrap_or_else(|| {
            let over = |family: Family| format!("a UDP tunnel over {family}");
            Reason::NoCommonReceiver {
                offered: list(all().map(|receiver| over(receiver.family))),
                wanted: list(me.underlay.families().map(over)),
            }
        })
    })
}

/// What the tunnel receives on, where its device is up.
pub(super) fn receivers<'a>(
    network: &Network,
    actual: &'a Tables,
) -> impl Iterator<Item = UdpReceiver> + use<'a> {
    let name = device::of_udp(network.vni);
    let device = actual.devices.get(&name).filter(|device| device.up);
    let listening = actual.listening.get(&name).filter(|listening| listening.vni == network.vni);
    device.zip(listening).into_iter().flat_map(|(device, listening)| {
        // The first key is the present one.
        let key = listening.keys.first().copied();
        listening.locals.iter().filter_map(move |local| {
            Some(UdpReceiver {
                family: Family::of(local.ip()),
                vni: listening.vni,
                port: u32::from(local.port()).try_into().ok()?,
                key: key?,
                mtu: device.mtu,
            })
        })
    })
}
