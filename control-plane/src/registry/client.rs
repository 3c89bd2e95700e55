//! The other side of a connection, and how many it may have.

use std::fmt;

use loden_process::source::Source;
use loden_proto::names::NodeId;
use loden_transport::{Holder, Role, SpiffeId};

/// Connections that one node may have at once; agents make a new one before they end the old one.
pub const PER_NODE: usize = 8;
/// Connections that any other identity may have at once: people and programs share it.
pub const PER_OTHER: usize = 64;
/// Connections that hosts of one source may have at once to join over: there may be a whole fleet behind it.
pub const PER_SOURCE: usize = 1024;
/// The other side of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Client {
    /// The holder of a certificate.
    Holder(Holder),
    /// A host that comes to join, from there.
    Joining(Source),
}

/// Who shares limits.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Party {
    Identity(SpiffeId),
    Source(Source),
}

impl Party {
    /// Which node it is, if it is one.
    pub(super) const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Identity(SpiffeId { role: Role::Node(node), .. }) => Some(node),
            _ => None,
        }
    }
}

impl Client {
    /// Who it is, if it has a certificate.
    #[must_use]
    pub const fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Holder(holder) => Some(&holder.id),
            Self::Joining(_) => None,
        }
    }

    /// Which node it is, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Holder(Holder { id: SpiffeId { role: Role::Node(node), .. }, .. }) => Some(node),
            _ => None,
        }
    }

    /// The identity epoch of its certificate.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        match self {
            Self::Holder(holder) => holder.epoch,
            Self::Joining(_) => 0,
        }
    }

    pub(crate) fn party(&self) -> Party {
        match self {
            Self::Holder(holder) => Party::Identity(holder.id.clone()),
            Self::Joining(source) => Party::Source(*source),
        }
    }

    /// How many connections it may have.
    pub(super) const fn limit(&self) -> usize {
        match self {
            Self::Joining(_) => PER_SOURCE,
            Self::Holder(_) if self.node().is_some() => PER_NODE,
            Self::Holder(_) => PER_OTHER,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(holder) => holder.id.fmt(f),
            Self::Joining(_) => f.write_str("a host that joins"),
        }
    }
}
