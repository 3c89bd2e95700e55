//! The way to a peer, as the threads of a tunnel share it. It outlives the tables that name it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use loden_proto::model::{Family, Mtu};

/// Bytes of the outer packet that pass on every path: of IPv4 as RFC 8899 §5.1.2 has it, of IPv6 its least MTU.
const BASE_V4: u16 = 1200;
const BASE_V6: u16 = Mtu::MIN_V6 as u16;

/// Nobody has said anything.
const SILENCE: u16 = u16::MAX;

/// What a probe is sent for: answers to others may come before the prober looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// The size that passes.
    Size,
    /// Whether the first of two that are sent at once arrives.
    First,
    /// The same of the second one.
    Second,
}

impl Asked {
    /// A power of two that all of them are less than.
    const KINDS: usize = 4;

    /// The nonce of a probe that is sent for this: never 0.
    pub(super) const fn nonce(self, random: u64) -> u64 {
        let kinds = Self::KINDS as u64;
        (random & !(kinds - 1)) | kinds | self as u64
    }

    const fn slot(nonce: u64) -> usize {
        nonce as usize % Self::KINDS
    }
}

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
    /// The nonces of the last answers to probes of each [kind](Asked), until the prober has looked.
    answers: [AtomicU64; Asked::KINDS],
    /// Whether many datagrams may be sent at once.
    gathers: AtomicBool,
    /// Whether the kernel has refused to since the prober has looked.
    is_refused: AtomicBool,
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
            answers: [const { AtomicU64::new(0) }; Asked::KINDS],
            gathers: AtomicBool::new(true),
            is_refused: AtomicBool::new(false),
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

    /// Somebody who sees probes has answered one; what is no nonce of ours is found later.
    pub(super) fn answer(&self, nonce: u64) {
        self.answers[Asked::slot(nonce)].store(nonce, Ordering::Relaxed);
    }

    pub(super) fn take_answer(&self, asked: Asked) -> Option<u64> {
        Some(self.answers[asked as usize].swap(0, Ordering::Relaxed)).filter(|nonce| *nonce != 0)
    }

    /// Whether many datagrams may be sent at once.
    #[must_use]
    pub fn gathers(&self) -> bool {
        self.gathers.load(Ordering::Relaxed)
    }

    pub(super) fn set_gathers(&self, gathers: bool) {
        self.gathers.store(gathers, Ordering::Relaxed);
    }

    /// The kernel does not send many at once this way.
    pub(super) fn refuse_many(&self) {
        self.set_gathers(false);
        self.is_refused.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_refused_many(&self) -> bool {
        self.is_refused.swap(false, Ordering::Relaxed)
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
