//! What a foreign hand may do.

use rand::Rng;

use crate::world::{DEVICE, OWN_V4, PEERS, Peer, TABLE, VNI};

/// One change, as iproute2, sysctl or nft makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    DeleteRoute(Peer),
    DeleteRouteV6(Peer),
    BendRoute(Peer, Peer),
    PrependRoute(Peer),
    PrependEnd(Peer),
    AppendRouteV6(Peer),
    ReplaceRouteV6(Peer),
    StaleRoute,
    DeleteNeighbour(Peer),
    BendNeighbour(Peer),
    StaleNeighbour,
    DeleteFdb(Peer),
    BendFdb(Peer),
    StaleFdb,
    PlainFdb,
    Flood,
    DeleteAddress,
    SecondAddress,
    EndAddress,
    FarAddress(Peer),
    RpFilter,
    Forwarding,
    Bridge,
    Mtu,
    Mac,
    Down,
    ProtoDown,
    Ttl,
    DeleteDevice,
    FlushRules,
    BendRules,
    DeleteTable,
}

impl Change {
    pub(crate) fn random(random: &mut impl Rng) -> Self {
        let peer = Peer(random.random_range(PEERS));
        let other = Peer(if peer.0 == PEERS.start { peer.0 + 1 } else { peer.0 - 1 });
        match random.random_range(0..32) {
            0 => Self::DeleteRoute(peer),
            1 => Self::DeleteRouteV6(peer),
            2 => Self::BendRoute(peer, other),
            3 => Self::StaleRoute,
            4 => Self::DeleteNeighbour(peer),
            5 => Self::BendNeighbour(peer),
            6 => Self::StaleNeighbour,
            7 => Self::DeleteFdb(peer),
            8 => Self::BendFdb(peer),
            9 => Self::StaleFdb,
            10 => Self::DeleteAddress,
            11 => Self::Mtu,
            12 => Self::Mac,
            13 => Self::Down,
            14 => Self::DeleteDevice,
            15 => Self::FlushRules,
            16 => Self::BendRules,
            17 => Self::PrependRoute(peer),
            18 => Self::PrependEnd(peer),
            19 => Self::AppendRouteV6(peer),
            20 => Self::ReplaceRouteV6(peer),
            21 => Self::Flood,
            22 => Self::SecondAddress,
            23 => Self::RpFilter,
            24 => Self::Forwarding,
            25 => Self::Bridge,
            26 => Self::PlainFdb,
            27 => Self::EndAddress,
            28 => Self::FarAddress(peer),
            29 => Self::ProtoDown,
            30 => Self::Ttl,
            _ => Self::DeleteTable,
        }
    }

    /// Whether it is about the packet filter.
    pub(crate) fn is_of_rules(self) -> bool {
        matches!(self, Self::FlushRules | Self::BendRules | Self::DeleteTable)
    }

    /// The command that does it.
    pub(crate) fn command(self) -> String {
        match self {
            Self::DeleteRoute(peer) => format!("ip route del {} dev {DEVICE}", peer.subnet()),
            Self::DeleteRouteV6(peer) => format!("ip -6 route del {} dev {DEVICE}", peer.subnet_v6()),
            // Beside the right one, and before it: its metric is lower.
            Self::BendRoute(peer, other) => {
                format!("ip route add {} via {} dev {DEVICE} onlink proto 76", peer.subnet(), other.base())
            }
            // In its place, and before it.
            Self::PrependRoute(peer) => {
                format!(
                    "ip route prepend {} via 192.0.2.200 dev eth0 metric {}",
                    peer.subnet(),
                    peer.metric()
                )
            }
            Self::PrependEnd(peer) => {
                format!("ip route prepend unreachable {} metric {}", peer.subnet(), peer.metric())
            }
            // As one more next hop of it.
            Self::AppendRouteV6(peer) => {
                format!(
                    "ip -6 route append {} via fe80::ee dev {DEVICE} metric {}",
                    peer.subnet_v6(),
                    peer.metric()
                )
            }
            Self::ReplaceRouteV6(peer) => {
                format!("ip -6 route replace unreachable {} metric {}", peer.subnet_v6(), peer.metric())
            }
            Self::StaleRoute => {
                format!("ip route add 10.244.250.0/24 via 10.244.250.0 dev {DEVICE} onlink metric 9 proto 76")
            }
            Self::DeleteNeighbour(peer) => format!("ip neigh del {} dev {DEVICE}", peer.base()),
            Self::BendNeighbour(peer) => {
                format!(
                    "ip neigh replace {} lladdr 02:00:00:00:00:ee dev {DEVICE} nud permanent",
                    peer.base()
                )
            }
            Self::StaleNeighbour => {
                format!(
                    "ip neigh add 10.244.250.0 lladdr 02:00:00:00:00:ee dev {DEVICE} nud permanent protocol 76"
                )
            }
            Self::DeleteFdb(peer) => format!("bridge fdb del {} dev {DEVICE} self", peer.mac()),
            Self::BendFdb(peer) => {
                format!("bridge fdb replace {} dev {DEVICE} dst 192.0.2.250 self permanent", peer.mac())
            }
            Self::StaleFdb => {
                format!("bridge fdb append 02:00:00:00:00:ee dev {DEVICE} dst 192.0.2.250 self permanent")
            }
            Self::Flood => {
                format!("bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 192.0.2.250 self permanent")
            }
            // As bridge(8) does it when it is told no more.
            Self::PlainFdb => {
                format!("bridge fdb append 02:00:00:00:00:ef dev {DEVICE} dst 192.0.2.250 self")
            }
            Self::EndAddress => {
                format!("ip addr change {OWN_V4}/32 dev {DEVICE} valid_lft 9 preferred_lft 0")
            }
            // Brings a route to a pod of the peer's along.
            Self::FarAddress(peer) => format!("ip addr add {OWN_V4} peer {}/32 dev {DEVICE}", peer.pod()),
            Self::SecondAddress => format!("ip addr add 10.244.250.1/16 dev {DEVICE}"),
            Self::RpFilter => format!("sysctl -q net.ipv4.conf.{DEVICE}.rp_filter=1"),
            Self::Forwarding => format!("sysctl -q net.ipv4.conf.{DEVICE}.forwarding=0"),
            Self::Bridge => format!("ip link set {DEVICE} master br8"),
            Self::DeleteAddress => format!("ip addr del {OWN_V4}/32 dev {DEVICE}"),
            Self::Mtu => format!("ip link set {DEVICE} mtu 1400"),
            Self::Mac => format!("ip link set {DEVICE} address 02:00:00:00:00:ee"),
            Self::Down => format!("ip link set {DEVICE} down"),
            Self::ProtoDown => format!("ip link set {DEVICE} protodown on"),
            Self::Ttl => format!("ip link set {DEVICE} type vxlan id {VNI} ttl 1"),
            Self::DeleteDevice => format!("ip link del {DEVICE}"),
            Self::FlushRules => format!("nft flush chain {TABLE} postrouting"),
            // Before all others.
            Self::BendRules => format!("nft insert rule {TABLE} postrouting accept"),
            Self::DeleteTable => format!("nft delete table {TABLE}"),
        }
    }
}
