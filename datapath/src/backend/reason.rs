//! Why a peer is not programmed, in words for the person who reads the status.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::{Mac, Vni};
use loden_proto::names::NodeId;

use crate::name::DeviceName;

/// A peer that is not programmed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("peer {node}: {reason}")]
pub struct Refused {
    /// The peer.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
}

/// Why a peer is not programmed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// The subnet is no slot of a pool.
    #[error("its subnet {0} is not a slot of one of the network's pools")]
    OutsidePools(IpNet),
    /// The subnet would take the underlay's traffic.
    #[error("its subnet {subnet} overlaps {prefix}, which this host reaches over its underlay")]
    OverlapsUnderlay {
        /// The peer's subnet.
        subnet: IpNet,
        /// The host's prefix.
        prefix: IpNet,
    },
    /// The subnet is this host's.
    #[error("its subnet {0} is this host's own")]
    OwnSubnet(IpNet),
    /// The subnet is another peer's.
    #[error("its subnet {subnet} is that of the peer {holder}")]
    SubnetTaken {
        /// The subnet.
        subnet: IpNet,
        /// Who has it.
        holder: NodeId,
    },
    /// The MAC address is this host's.
    #[error("its MAC address {0} is this host's own")]
    OwnMac(Mac),
    /// The MAC address is another peer's.
    #[error("its MAC address {mac} is that of the peer {holder}")]
    MacTaken {
        /// The MAC address.
        mac: Mac,
        /// Who has it.
        holder: NodeId,
    },
    /// The underlay address is this host's.
    #[error("its underlay address {0} is this host's own")]
    OwnAddress(IpAddr),
    /// The underlay address is another peer's.
    #[error("its underlay address {address} is that of the peer {holder}")]
    AddressTaken {
        /// The underlay address.
        address: IpAddr,
        /// Who has it.
        holder: NodeId,
    },
    /// Nobody can send to the underlay address.
    #[error("its underlay address {address} {rule}")]
    BadAddress {
        /// The underlay address.
        address: IpAddr,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Packets to the peer would be routed into the tunnel that makes them.
    #[error("its underlay address {address} lies in the network's own pool {pool}")]
    AddressInPool {
        /// The underlay address.
        address: IpAddr,
        /// The pool.
        pool: IpNet,
    },
    /// It receives for another network.
    #[error("it receives on VNI {theirs} only; the network's is {ours}")]
    OtherVni {
        /// The VNI of the peer's receiver.
        theirs: Vni,
        /// The network's VNI.
        ours: Vni,
    },
    /// It offers no receiver: its agent has a lease and no device yet.
    #[error("it is not ready to receive")]
    NotReady,
    /// Packets to it do not leave this host.
    #[error("this host has no route to its underlay address {address}")]
    NoRoute {
        /// The underlay address.
        address: IpAddr,
    },
    /// It is behind a gateway, and packets can only go there as they are.
    #[error("its underlay address {address} is not on a link of this host")]
    NotAdjacent {
        /// The underlay address.
        address: IpAddr,
    },
    /// It has no address that a route to the subnet can lead to.
    #[error("it takes nothing for its subnet {subnet} without encapsulation over {} address", families(*subnet))]
    NoNextHop {
        /// The subnet.
        subnet: IpNet,
    },
    /// The kernel finds no MAC address for the next hop.
    #[error("its underlay address {address} does not answer on {device}")]
    Unanswered {
        /// The underlay address.
        address: IpAddr,
        /// The link.
        device: DeviceName,
    },
    /// No receiver fits.
    #[error(
        "it receives on nothing that this host can send to: it offers {offered}; this host sends {wanted}"
    )]
    NoCommonReceiver {
        /// What the peer offers.
        offered: String,
        /// What this host can use.
        wanted: String,
    },
}

const fn families(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "any",
        IpNet::V6(_) => "an IPv6",
    }
}
