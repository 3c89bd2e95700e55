//! What can be asked of the ledger, and what it decides.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use loden_proto::convert::TokenOrder;
use loden_proto::model::{
    DeviceOffload, Endpoint, Epoch, InstanceId, LeaseName, Masquerade, Mtu, NetworkSpec, Pool, Subnets,
    TokenId, Vni,
};
use loden_proto::names::{NetworkId, NodeId};

use super::key::RecordKey;
use super::refusal::{Named, Refusal};
use crate::store::{Change, Guard, Revision};

/// What of a network is to be changed; `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkChange {
    /// Replaces the whole list; a pool in use may not disappear.
    pub pools: Option<Vec<Pool>>,
    /// `Some(None)`: each node's lower device decides again.
    pub mtu: Option<Option<Mtu>>,
    /// `Some(None)`: packets leave with the pods' addresses.
    pub masquerade: Option<Option<Masquerade>>,
    /// Of VXLAN: whether nodes on the same link are sent to without encapsulation.
    pub direct_routing: Option<bool>,
    /// Of the UDP tunnel: what it leaves to the kernel at most.
    pub offloads: OffloadChange,
}

/// What of a UDP tunnel's limits is to be changed; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OffloadChange {
    /// What the device hands out at most.
    pub device: Option<DeviceOffload>,
    /// Whether each datagram is sent by itself.
    pub single_sends: Option<bool>,
    /// Whether each datagram is received by itself.
    pub single_receives: Option<bool>,
}

/// One wish. Who may have it is checked before it comes here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Creates a network and claims its VNI.
    CreateNetwork {
        /// What is asked for.
        spec: NetworkSpec,
        /// A repeat with the same id within [`Command::REMEMBERED`] gets the first answer.
        request_id: Option<String>,
    },
    /// Changes a network.
    UpdateNetwork {
        /// Which.
        id: NetworkId,
        /// What of it.
        change: NetworkChange,
        /// The revision that the caller has seen; `None`: whatever there is now.
        seen: Option<u64>,
    },
    /// Deletes a network; its VNI cools down.
    DeleteNetwork {
        /// Which.
        id: NetworkId,
        /// Also when it has leases or reservations.
        force: bool,
    },
    /// Gives a node its subnets: the ones it had, else its reservation's, else free ones.
    AcquireLease {
        /// Whose.
        name: LeaseName,
        /// Of the agent's state directory.
        instance: InstanceId,
        /// The subnets that the agent holds.
        claim: Option<Subnets>,
        /// Where it receives.
        endpoint: Endpoint,
        /// What the node reaches outside of any network; not kept.
        underlay: Vec<IpNet>,
        /// Of the certificate that the node has shown.
        identity_epoch: u32,
    },
    /// Extends a lease.
    RenewLease {
        /// Whose.
        name: LeaseName,
        /// `None`: the server renews for an open watch.
        epoch: Option<Epoch>,
    },
    /// Publishes where a node receives. Extends the lease as well.
    UpdateEndpoint {
        /// Whose.
        name: LeaseName,
        /// As acquired.
        epoch: Epoch,
        /// Replaces the whole endpoint.
        endpoint: Endpoint,
    },
    /// Gives subnets back; they cool down.
    ReleaseLease {
        /// Whose.
        name: LeaseName,
        /// `None`: an admin's, whatever the epoch is.
        epoch: Option<Epoch>,
    },
    /// Takes an expired lease from the peers and holds it for its node.
    ExpireLease {
        /// Whose.
        name: LeaseName,
        /// Of its last change, as in [`Lease::revision`](super::Lease::revision).
        revision: u64,
    },
    /// Binds subnets to a node.
    CreateReservation {
        /// Whose.
        name: LeaseName,
        /// Slots of the network's pools, at most one per family.
        subnets: Subnets,
        /// As in [`Self::CreateNetwork`].
        request_id: Option<String>,
    },
    /// Removes a reservation; a lease on it stays and begins to expire.
    DeleteReservation {
        /// Whose.
        name: LeaseName,
    },
    /// Makes a token.
    CreateToken {
        /// Random.
        id: TokenId,
        /// SHA-256 of its secret, in hexadecimal digits.
        secret: String,
        /// What is asked for.
        order: TokenOrder,
    },
    /// Takes a token away.
    DeleteToken {
        /// Which.
        id: TokenId,
    },
    /// Spends a token for a node.
    Join(Joiner),
    /// Keeps in mind of which epoch a certificate is that a node has shown.
    See {
        /// Which.
        node: NodeId,
        /// Of its certificate.
        epoch: u32,
    },
    /// Shuts a node out.
    ShutOut {
        /// Which.
        node: NodeId,
        /// Its certificates of a lower epoch are refused from now on.
        epoch: u32,
        /// What becomes of its leases.
        farewell: Farewell,
    },
    /// The store begins a new life: the first, or after it was lost or rolled back.
    BeginIncarnation {
        /// Random.
        id: u128,
        /// A life whose resume tokens are known though the store has lost it.
        predecessor: Option<u128>,
        /// Until then leases are collected from the agents that hold them.
        adopt_until: Option<SystemTime>,
    },
    /// Has all control planes take up another CA, or another one beside it.
    ShareAuthority {
        /// The CA, sealed.
        sealed: String,
        /// The revision of the one that was changed.
        after: Revision,
    },
    /// All leases are peers again.
    EndAdoption,
    /// Forgets what has cooled down and old requests, and finishes deletions that were begun.
    Tidy,
}

/// Who wants to join.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Joiner {
    /// With which token.
    pub token: TokenId,
    /// SHA-256 of the secret that was shown, in hexadecimal digits.
    pub secret: String,
    /// As which node; none: as the one that the token is for.
    pub node: Option<NodeId>,
    /// SHA-256 of its public key, in hexadecimal digits.
    pub key: String,
    /// Whether a node of that name is connected.
    pub connected: bool,
}

/// What becomes of the leases of a node that is shut out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Farewell {
    /// Its peers forget them, and they are held for it.
    Hold,
    /// They are given back, and another host may take its name.
    Release,
}

impl Command {
    /// How long a request id is remembered.
    pub const REMEMBERED: Duration = Duration::from_secs(600);

    /// Whether the refusal of a later step means that somebody else has done the rest: a deletion that was
    /// begun is also finished by [`Self::Tidy`].
    #[must_use]
    pub fn was_finished(&self, refusal: &Refusal) -> bool {
        match (self, refusal) {
            (Self::DeleteNetwork { id, .. }, Refusal::NotFound(Named::Network(gone))) => id == gone,
            _ => false,
        }
    }

    /// Reservations that give way to the node that acquires.
    pub fn drops(&self, changes: &[Change]) -> impl Iterator<Item = LeaseName> {
        let acquires = matches!(self, Self::AcquireLease { .. });
        changes.iter().filter(move |_| acquires).filter_map(|change| match change {
            Change::Delete { key } => match RecordKey::parse(key)? {
                RecordKey::Reservation(name) => Some(name),
                _ => None,
            },
            Change::Put { .. } => None,
        })
    }
}

/// What a decision depends on beside the ledger.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The time of day.
    pub now: SystemTime,
    /// What is configured.
    pub defaults: &'a Defaults,
    /// The server has just started and waits for its agents: new slots are given after this time.
    pub settling: Option<Duration>,
    /// Who has knocked: as long as no lease was given, new slots are held then.
    pub knocked: Option<Knocked>,
    /// Who is streaming.
    pub streaming: &'a dyn Streaming,
}

/// Clients that know another CA of this cluster have come lately: there may be subnets in use that were given
/// out in a life of which nothing is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knocked {
    /// Where the last one came from.
    pub last: SocketAddr,
    /// How long ago that was.
    pub ago: Duration,
    /// From how many addresses they came.
    pub hosts: usize,
    /// For how long that counts if nobody comes again.
    pub remaining: Duration,
}

impl Knocked {
    /// What follows, and what an operator can do about it.
    #[must_use]
    pub fn consequence(&self) -> String {
        format!("{self}; new nodes get no subnet: {}", Self::ADVICE)
    }

    pub(super) const ADVICE: &str = "if the state directory was lost, run loden-control-plane recover, start the control \
                              plane again and issue every node anew; if this is a new cluster, stop those agents";
}

impl Display for Knocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { last, ago, hosts, .. } = self;
        let who = if *hosts == 1 { "1 host knows".to_owned() } else { format!("{hosts} hosts know") };
        let ago = humantime::format_duration(Duration::from_secs(ago.as_secs()));
        write!(f, "{who} another CA of this cluster (last seen: {last}, {ago} ago)")
    }
}

/// Configured values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Defaults {
    /// How long a lease lives in a network that does not say.
    pub lease_ttl: Duration,
    /// How long a slot or VNI that was given back is kept from others.
    pub cooldown: Duration,
    /// How long leases are collected from the agents after the store was lost.
    pub adopt: Duration,
    /// VNIs to give to networks that ask for none.
    pub vnis: Vec<RangeInclusive<Vni>>,
    /// Whether loopback addresses are an underlay (fleets in one process).
    pub allow_loopback: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(24 * 3600),
            cooldown: Duration::from_secs(3600),
            adopt: Duration::from_secs(600),
            vnis: vec![Vni::MIN..=Vni::MAX],
            allow_loopback: false,
        }
    }
}

/// Which instance of a node has a watch open.
pub trait Streaming {
    /// The instance that streams with this lease, here or at any other replica.
    fn instance(&self, lease: &LeaseName) -> Option<InstanceId>;
}

/// What is to be committed, and what to answer then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// At most [`MAX_OPERATIONS`](crate::store::MAX_OPERATIONS), none twice. Empty: answer as soon as
    /// everything that this decision was based on is committed.
    pub changes: Vec<Change>,
    /// What must still hold, by the revisions in the ledger that decided. That may be ahead of what is
    /// committed, by batches with the revisions they are expected to get; once one gets another revision,
    /// everything decided after it has to be decided again.
    pub guards: Vec<Guard>,
    /// The command is not finished by this one commit: decide it again once this is accepted, and answer
    /// after the last. Each step leaves a ledger that is right by itself.
    pub more: bool,
    /// What is answered, from the ledger as it is after the commit.
    pub want: Want,
}

/// What is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Want {
    /// This network.
    Network(NetworkId),
    /// This lease and its network.
    Lease(LeaseName),
    /// This reservation.
    Reservation(LeaseName),
    /// This token.
    Token(TokenId),
    /// This node, as it is let in.
    Member(NodeId),
    /// Only that it is done.
    Nothing,
}
