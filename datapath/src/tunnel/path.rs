//! The way to a peer, as the threads of a tunnel share it. It outlives the tables that name it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use loden_proto::model::{Family, Mtu};

/// Bytes of the outer packet that pass on every path: of IPv4 as RFC 8899 §5.1.2 has it, of IPv6 its least MTU.
const BASE_V4: u16 = 1200;
const BASE_V6: u16 = Mtu::MIN_V6 as u16;

/// Nobody has said anything.
const SILENCE: u16 = u16::MAX;

/// The way to an endpoint.
#[derive(Debug)]
pub struct Path {
    base: u16,
    overhead: u16,
    /// Bytes that outer packets are wanted to have.
    most: u16,
    /// Bytes that they may have.
    mtu: AtomicU16,
    /// What the host or a router has said since the search has looked.
    refused: AtomicU16,
    /// The nonce of the last answer to a probe, until the search has looked.
    answer: AtomicU64,
    /// Whether something was sent since the search has looked.
    is_used: AtomicBool,
}

impl Path {
    /// The way to an endpoint from a device whose packets have at most so many bytes.
    #[must_use]
    pub fn new(endpoint: SocketAddr, device_mtu: u16) -> Self {
        let family = Family::of(endpoint.ip().to_canonical());
        let base = match family {
            Family::V4 => BASE_V4,
            Family::V6 => BASE_V6,
        };
        // Less than a hundred.
        let overhead = family.udp_overhead() as u16;
        let most = device_mtu.saturating_add(overhead).max(base);
        Self {
            base,
            overhead,
            most,
            mtu: AtomicU16::new(most),
            refused: AtomicU16::new(SILENCE),
            answer: AtomicU64::new(0),
            is_used: AtomicBool::new(false),
        }
    }

    /// Bytes that the outer packet has around an inner one.
    #[must_use]
    pub const fn overhead(&self) -> u16 {
        self.overhead
    }

    /// What passes on every path.
    #[must_use]
    pub const fn base(&self) -> u16 {
        self.base
    }

    /// The most that is wanted.
    #[must_use]
    pub const fn most(&self) -> u16 {
        self.most
    }

    /// Bytes that an outer packet may have now.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Bytes that an inner packet may have now.
    #[must_use]
    pub fn inner_mtu(&self) -> u16 {
        self.mtu() - self.overhead
    }

    /// Somebody on the way says what passes: nothing larger is sent from now on. Less than what passes on every path is
    /// not believed.
    pub fn refuse(&self, mtu: u16) {
        let mtu = mtu.max(self.base);
        self.refused.fetch_min(mtu, Ordering::Relaxed);
        self.mtu.fetch_min(mtu, Ordering::Relaxed);
    }

    pub(super) fn take_refused(&self) -> Option<u16> {
        Some(self.refused.swap(SILENCE, Ordering::Relaxed)).filter(|mtu| *mtu != SILENCE)
    }

    pub(super) fn answer(&self, nonce: u64) {
        self.answer.store(nonce, Ordering::Relaxed);
    }

    pub(super) fn take_answer(&self) -> Option<u64> {
        Some(self.answer.swap(0, Ordering::Relaxed)).filter(|nonce| *nonce != 0)
    }

    pub(super) fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Something is sent. Written only when it changes, since several threads read it.
    pub(super) fn mark_used(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn take_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed) && self.is_used.swap(false, Ordering::Relaxed)
    }
}
