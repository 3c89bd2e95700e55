//! What can happen to whom.

use std::fmt;

/// Somebody that something can happen to, by number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Actor {
    /// A control plane.
    Replica(usize),
    /// A member of etcd.
    Member(usize),
    /// An agent.
    Agent(usize),
    /// haproxy.
    Balancer,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(number) => write!(f, "replica {number}"),
            Self::Member(number) => write!(f, "member {number}"),
            Self::Agent(number) => write!(f, "agent {number}"),
            Self::Balancer => f.write_str("the balancer"),
        }
    }
}

/// What happens, from its beginning to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It is killed, and started again in the end.
    Kill(Actor),
    /// The member that leads at that time is killed, and started again in the end.
    KillLeader,
    /// It does not run, while everything that it has open stays open.
    Stop(Actor),
    /// Neither gets anything from the other.
    Cut(Actor, Actor),
    /// Its clock is so many seconds ahead, or behind.
    Jump(Actor, i64),
}

impl Fault {
    /// Whose process is not as it was.
    fn actor(self) -> Option<Actor> {
        match self {
            Self::Kill(actor) | Self::Stop(actor) | Self::Jump(actor, _) => Some(actor),
            Self::KillLeader | Self::Cut(..) => None,
        }
    }

    /// Whether etcd has one member less, or one that is not there for all others.
    pub(super) fn costs_a_member(self) -> bool {
        match self {
            Self::KillLeader
            | Self::Kill(Actor::Member(_))
            | Self::Stop(Actor::Member(_))
            | Self::Cut(Actor::Member(_), Actor::Member(_)) => true,
            Self::Kill(_) | Self::Stop(_) | Self::Cut(..) | Self::Jump(..) => false,
        }
    }

    /// Whether both can be at the same time.
    pub(super) fn is_beside(self, other: Self) -> bool {
        match (self, other) {
            (Self::Cut(a, b), Self::Cut(c, d)) => (a, b) != (c, d) && (a, b) != (d, c),
            _ => self.actor().is_none() || self.actor() != other.actor(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(actor) => write!(f, "{actor} is killed"),
            Self::KillLeader => f.write_str("the leader of etcd is killed"),
            Self::Stop(actor) => write!(f, "{actor} is stopped"),
            Self::Cut(one, other) => write!(f, "{one} and {other} are cut off from each other"),
            Self::Jump(actor, seconds) => write!(f, "the clock of {actor} jumps by {seconds} s"),
        }
    }
}
