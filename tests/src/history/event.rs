//! What happened: calls with what they came to, and looks at the ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

/// What can be there or not.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Thing {
    /// A node's lease in a network.
    Lease {
        /// The network.
        network: String,
        /// The node.
        node: String,
    },
    /// A node's reservation in a network.
    Reservation {
        /// The network.
        network: String,
        /// The node.
        node: String,
    },
    /// A network.
    Network(String),
}

impl Thing {
    /// A node's lease in a network.
    #[must_use]
    pub fn lease(network: &str, node: &str) -> Self {
        Self::Lease { network: network.to_owned(), node: node.to_owned() }
    }

    /// A node's reservation in a network.
    #[must_use]
    pub fn reservation(network: &str, node: &str) -> Self {
        Self::Reservation { network: network.to_owned(), node: node.to_owned() }
    }

    /// Whose it is: a node may have a reservation and a lease of the same subnet.
    #[must_use]
    pub fn owner(&self) -> (&str, &str) {
        match self {
            Self::Lease { network, node } | Self::Reservation { network, node } => (network, node),
            Self::Network(network) => (network, ""),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease { network, node } => write!(f, "networks/{network}/leases/{node}"),
            Self::Reservation { network, node } => write!(f, "networks/{network}/reservations/{node}"),
            Self::Network(network) => write!(f, "networks/{network}"),
        }
    }
}

/// What only one can have.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Slot {
    /// A subnet.
    Subnet(IpNet),
    /// A VNI.
    Vni(u32),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet(subnet) => subnet.fmt(f),
            Self::Vni(vni) => write!(f, "VNI {vni}"),
        }
    }
}

/// What a thing is like while it is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// What it has for itself alone.
    pub slots: Vec<Slot>,
    /// Of a lease, never 0; 0 of anything else.
    pub epoch: u64,
    /// The instance that has acquired a lease; 0 of anything else.
    pub instance: u128,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots: Vec<_> = self.slots.iter().map(ToString::to_string).collect();
        write!(f, "{} (epoch {}, instance {:x})", slots.join(" and "), self.epoch, self.instance)
    }
}

/// What a call is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// That the thing is there: acquire, reserve, create.
    Take {
        /// Of a lease, else 0.
        instance: u128,
    },
    /// That it stays: renew.
    Keep,
    /// That it is gone: release, delete.
    Give {
        /// Of the lease that is meant, else 0.
        epoch: u64,
    },
}

/// What a call came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was done. What there is now; `None`: nothing.
    Done(Option<Held>),
    /// It was not and will never be done.
    Refused,
    /// Nobody has said: it may have been done, may be done later, or never.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// What it is about.
    pub thing: Thing,
    /// What for.
    pub wish: Wish,
    /// When it was sent.
    pub begin: Duration,
    /// When it was answered or given up.
    pub end: Duration,
    /// What it came to.
    pub outcome: Outcome,
}

impl Call {
    /// What there was when it had been done; `None` unless it was answered that it was done.
    #[must_use]
    pub fn result(&self) -> Option<Option<&Held>> {
        match &self.outcome {
            Outcome::Done(held) => Some(held.as_ref()),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// What it has shown to be there.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.result().flatten()
    }

    /// Whether it was done before this moment for sure, and cannot be done later.
    #[must_use]
    pub fn was_over(&self, at: Duration) -> bool {
        self.outcome == Outcome::Refused || (matches!(self.outcome, Outcome::Done(_)) && self.end <= at)
    }

    /// Whether it ends what is held, if it is done: a lease of this epoch or of what became of it.
    #[must_use]
    pub fn may_end(&self, held: &Held) -> bool {
        self.outcome != Outcome::Refused && matches!(self.wish, Wish::Give { epoch } if epoch >= held.epoch)
    }

    /// Whether it gives a thing another epoch, if it is done.
    #[must_use]
    pub fn may_take(&self) -> bool {
        self.outcome != Outcome::Refused && matches!(self.wish, Wish::Take { .. })
    }
}

/// What a list is of.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The leases of a network.
    Leases(String),
    /// The reservations in a network.
    Reservations(String),
    /// All networks.
    Networks,
}

impl Scope {
    /// Whether a thing is in the list when it is there.
    #[must_use]
    pub fn has(&self, thing: &Thing) -> bool {
        match (self, thing) {
            (Self::Leases(network), Thing::Lease { network: of, .. })
            | (Self::Reservations(network), Thing::Reservation { network: of, .. }) => network == of,
            (Self::Networks, Thing::Network(_)) => true,
            _ => false,
        }
    }
}

/// A whole list, as one replica has told it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Look {
    /// Which replica.
    pub replica: usize,
    /// When it was asked.
    pub begin: Duration,
    /// When it had answered.
    pub end: Duration,
    /// The store's revision that it shows.
    pub revision: u64,
    /// What the list is of.
    pub scope: Scope,
    /// What is in it.
    pub things: BTreeMap<Thing, Held>,
    /// Whether everything that was answered before it began has to be in it. While replicas may lag behind, it need not.
    pub last: bool,
}
