//! Why a command was refused, for the person who reads it: field, value, rule.

use std::fmt::{self, Display};
use std::time::Duration;

use ipnet::IpNet;
use loden_proto::InvalidValue;
use loden_proto::model::{Backend, Epoch, Family, InstanceId, LeaseName, Pool, Port, TokenId, Vni};
use loden_proto::names::{self, NetworkId, NodeId};

use super::command::Knocked;
use super::read::PoolUse;

/// Why a command was refused. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A field breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// The named thing is not there.
    #[error("{0} does not exist")]
    NotFound(Named),
    /// Its name is taken.
    #[error("{0} exists already")]
    Exists(Named),
    /// A number or address belongs to somebody else.
    #[error("{field}: \"{value}\" belongs to {owner}; it must be unique in the {within}")]
    Taken {
        /// Path of the field.
        field: String,
        /// The number or address.
        value: String,
        /// Whose it is.
        owner: Named,
        /// `cluster` or `network`.
        within: &'static str,
    },
    /// A pool shares addresses with a pool of another network.
    #[error(
        "{field}: \"{cidr}\" overlaps the pool {other} of {}; networks share one routing table",
        names::network(network)
    )]
    PoolOverlaps {
        /// Path of the field.
        field: String,
        /// The pool that was asked for.
        cidr: IpNet,
        /// The pool that exists.
        other: IpNet,
        /// Whose that is.
        network: NetworkId,
    },
    /// A pool contains an address that a node uses on its underlay, or overlaps what it reaches there.
    #[error(
        "{field}: the pool {pool} of {} overlaps the underlay {underlay} of {}; \
         traffic to the underlay would go into the tunnel",
        names::network(network),
        names::node(node)
    )]
    OverlapsUnderlay {
        /// Path of the field.
        field: String,
        /// The pool.
        pool: IpNet,
        /// Whose pool.
        network: NetworkId,
        /// Its address or prefix, with the word before it.
        underlay: String,
        /// Whose underlay.
        node: NodeId,
    },
    /// Networks on one UDP port disagree about the group policy extension.
    #[error(
        "{field}: \"{gbp}\" must be {}, as for {} on the same UDP port {port}",
        !gbp, names::network(network)
    )]
    PortDisagrees {
        /// Path of the field.
        field: String,
        /// What was asked for.
        gbp: bool,
        /// The shared port.
        port: Port,
        /// The network that exists.
        network: NetworkId,
    },
    /// Networks of different backends on one UDP port.
    #[error(
        "{field}: \"{port}\" is the UDP port of {}, whose backend is {others}; {}, whose backend is {backend}, needs \
         another one",
        names::network(other),
        names::network(network)
    )]
    PortTaken {
        /// Path of the field.
        field: String,
        /// The port that was asked for.
        port: Port,
        /// The network that was asked for.
        network: NetworkId,
        /// What was asked for.
        backend: Backend,
        /// The network that exists.
        other: NetworkId,
        /// Its backend.
        others: Backend,
    },
    /// Another control plane has changed the CA meanwhile.
    #[error("the CA was changed by somebody else meanwhile; look at it and decide again")]
    AuthorityChanged,
    /// No slot of a family is free.
    #[error("{} has no free {family} subnet left: {}", names::network(network), Join(pools, "; "))]
    Exhausted {
        /// The network.
        network: NetworkId,
        /// Of which family.
        family: Family,
        /// What its slots are used for.
        pools: Vec<PoolUse>,
    },
    /// No VNI is free.
    #[error("no VNI is free in the configured ranges {}", Join(ranges, ", "))]
    VnisExhausted {
        /// First and last of each.
        ranges: Vec<VniRange>,
    },
    /// Given back by somebody else a short while ago.
    #[error(
        "{field}: \"{value}\" was given back by {last} and cools down, free in {}",
        whole_seconds(*remaining)
    )]
    CoolingDown {
        /// Path of the field.
        field: String,
        /// The subnet or VNI.
        value: String,
        /// Who had it.
        last: Named,
        /// How long it still takes.
        remaining: Duration,
    },
    /// Another node has the slot.
    #[error("{field}: \"{subnet}\" is {} {owner}", if *held { "held for" } else { "in use by" })]
    SlotInUse {
        /// Path of the field.
        field: String,
        /// The slot.
        subnet: IpNet,
        /// Its lease.
        owner: Named,
        /// Expired, and kept for its node.
        held: bool,
    },
    /// A pool that is used would disappear.
    #[error("network.pools: \"{pool}\" is in use and cannot be removed: {used}")]
    PoolInUse {
        /// The pool.
        pool: Pool,
        /// What its slots are used for.
        used: PoolUse,
    },
    /// The network is used.
    #[error(
        "{} has {leases} leases and {reservations} reservations; release them or delete with force",
        names::network(network)
    )]
    NetworkInUse {
        /// The network.
        network: NetworkId,
        /// How many leases, held ones too.
        leases: usize,
        /// How many reservations.
        reservations: usize,
    },
    /// The network's deletion has begun.
    #[error("{} is being deleted", names::network(.0))]
    Deleting(NetworkId),
    /// The network has changed since the caller read it.
    #[error(
        "network.revision: \"{seen}\" of {} is not the current {current}; read it again",
        names::network(network)
    )]
    StaleRevision {
        /// Which network.
        network: NetworkId,
        /// What the caller has seen.
        seen: u64,
        /// What it is.
        current: u64,
    },
    /// The lease has been acquired anew since.
    #[error("epoch: \"{sent}\" of {lease} is not the current {current}; acquire the lease again")]
    StaleEpoch {
        /// Which lease.
        lease: LeaseName,
        /// What was sent.
        sent: Epoch,
        /// What would have been right.
        current: Epoch,
    },
    /// Two agents have one certificate.
    #[error(
        "instance_id: \"{instance}\" may not acquire {lease} while the instance {} of the same \
         node is connected; were its disk or certificate copied?",
        streaming.first_digits()
    )]
    AnotherInstance {
        /// Which lease.
        lease: LeaseName,
        /// Who asks.
        instance: InstanceId,
        /// Who has it.
        streaming: InstanceId,
    },
    /// The store was lost or rolled back, and leases are collected from the agents that hold them.
    #[error(
        "the leases held before the store was lost are being collected for another {}; {reason}",
        whole_seconds(*remaining)
    )]
    Adopting {
        /// How long that goes on.
        remaining: Duration,
        /// What is missing for being served now.
        reason: String,
    },
    /// No lease was ever given, and there are clients that know another CA of this cluster.
    #[error("{}", held_back(.0))]
    Knocked(Knocked),
    /// The server has just started.
    #[error(
        "the server has just started and gives no new subnet for another {}, until its agents are back",
        whole_seconds(*retry_after)
    )]
    Settling {
        /// How long that goes on.
        retry_after: Duration,
    },
    /// Somebody is not let in.
    #[error(transparent)]
    Shut(#[from] Shut),
    /// The lease may not expire now.
    #[error("{lease} does not expire: {reason}")]
    NotDue {
        /// Which lease.
        lease: LeaseName,
        /// Why.
        reason: &'static str,
    },
}

/// Why somebody is not let in. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Shut {
    /// There is no such token, or the secret is another.
    #[error("token: {} does not exist, or its secret is another", names::token(*.0))]
    NoToken(TokenId),
    /// Its time has passed.
    #[error("token: {} has expired; make another one", names::token(*.0))]
    Expired(TokenId),
    /// It has let in as many as it may.
    #[error("token: {} has been used up; make another one", names::token(*.0))]
    Spent(TokenId),
    /// It is for another node.
    #[error("node: \"{asked}\" may not join with {}, which is for \"{bound}\"", names::token(*token))]
    Bound {
        /// Which token.
        token: TokenId,
        /// For whom it is.
        bound: NodeId,
        /// Who came.
        asked: NodeId,
    },
    /// It is for new nodes, and this one is known.
    #[error(
        "node: \"{0}\" is known already; it needs a token that is for it alone (lodenctl token create --node {0})"
    )]
    Known(NodeId),
    /// The node was shut out.
    #[error(
        "nodes/{0} was revoked; it needs a token that is for it alone (lodenctl token create --node {0})"
    )]
    Revoked(NodeId),
    /// The node is kept to other networks.
    #[error("{} may have leases in {} only", names::node(node), Join(networks, ", "))]
    Network {
        /// Which node.
        node: NodeId,
        /// In which it may.
        networks: Vec<NetworkId>,
    },
}

/// A thing by its resource name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Named {
    /// `networks/{network}`.
    Network(NetworkId),
    /// `networks/{network}/leases/{node}`.
    Lease(LeaseName),
    /// `networks/{network}/reservations/{node}`.
    Reservation(LeaseName),
    /// `tokens/{token}`.
    Token(TokenId),
}

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => f.write_str(&names::network(network)),
            Self::Lease(lease) => lease.fmt(f),
            Self::Reservation(of) => f.write_str(&names::reservation(&of.network, &of.node)),
            Self::Token(token) => f.write_str(&names::token(*token)),
        }
    }
}

/// VNIs from the first to the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VniRange {
    /// The lowest.
    pub first: Vni,
    /// The highest.
    pub last: Vni,
}

impl Display for VniRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

struct Join<'a, T>(&'a [T], &'static str);

impl<T: Display> Display for Join<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

fn held_back(knocked: &Knocked) -> String {
    format!(
        "{knocked}; they may use subnets that this control plane does not know, so it gives no new one until nobody \
         has come for another {}: {}",
        whole_seconds(knocked.remaining),
        Knocked::ADVICE
    )
}

fn whole_seconds(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_millis().div_ceil(1000) as u64))
}
