//! What became of the packets of a tunnel.

use std::sync::atomic::{AtomicU64, Ordering};

use super::header::Unreadable;
use super::peers::Rejected;

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(usize)]
pub enum Loss {
    /// From the device: not a packet that can be sent.
    Unsendable,
    /// From the device: no peer has the destination.
    NoPeer,
    /// From the device: this host has no port in the family of the peer's endpoint.
    NoPort,
    /// From the device: too long for the way to the peer.
    TooBig,
    /// From the device: the kernel does not send it for another reason.
    NotSent,
    /// From the port: no header of this version.
    Unreadable,
    /// From the port: for a network that does not receive here.
    Network,
    /// From the port: without this host's key.
    Key,
    /// From the port: from an address or port that is no peer's.
    Sender,
    /// From the port: no whole packet.
    Malformed,
    /// From the port: not from a subnet of the peer.
    Source,
    /// From the port: marked as congested on the way, and its ends do not heed marks.
    Congested,
    /// From the port: the device does not take it.
    NotDelivered,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Unsendable,
        Self::NoPeer,
        Self::NoPort,
        Self::TooBig,
        Self::NotSent,
        Self::Unreadable,
        Self::Network,
        Self::Key,
        Self::Sender,
        Self::Malformed,
        Self::Source,
        Self::Congested,
        Self::NotDelivered,
    ];

    /// As metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsendable => "unsendable",
            Self::NoPeer => "no_peer",
            Self::NoPort => "no_port",
            Self::TooBig => "too_big",
            Self::NotSent => "not_sent",
            Self::Unreadable => "unreadable",
            Self::Network => "network",
            Self::Key => "key",
            Self::Sender => "sender",
            Self::Malformed => "malformed",
            Self::Source => "source",
            Self::Congested => "congested",
            Self::NotDelivered => "not_delivered",
        }
    }
}

impl From<Rejected> for Loss {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Unreadable(Unreadable::Key) | Rejected::Key => Self::Key,
            Rejected::Unreadable(_) => Self::Unreadable,
            Rejected::Network(_) => Self::Network,
            Rejected::Sender(_) => Self::Sender,
            Rejected::Malformed(_) => Self::Malformed,
            Rejected::Source(_) => Self::Source,
        }
    }
}

/// Counts packets; shared by the threads of a tunnel and by whoever looks.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    sends: AtomicU64,
    received: AtomicU64,
    writes: AtomicU64,
    told: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
}

impl Counters {
    /// Datagrams that the kernel took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// With how many sends: super-packets leave many packets at a time.
    #[must_use]
    pub fn sends(&self) -> u64 {
        self.sends.load(Ordering::Relaxed)
    }

    /// Packets that the device took.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// With how many writes: packets of one flow are merged.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// ICMP errors that pods were told.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Packets that went no further.
    #[must_use]
    pub fn lost(&self, why: Loss) -> u64 {
        self.lost[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add_sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        self.sends.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self, count: usize) {
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_told(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_lost(&self, why: Loss, count: usize) {
        self.lost[why as usize].fetch_add(count as u64, Ordering::Relaxed);
    }
}
