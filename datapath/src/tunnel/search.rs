//! The search for a path's MTU (RFC 8899): which probe is sent when, and what its answer or its loss means. Plain data;
//! sizes are bytes of the outer IP packet.
//!
//! ```text
//!  hopeful: `most` is taken for granted and confirmed ──lost──▶ base ──▶ search between what passes and what does not
//!  found: confirmed now and then ──lost──▶ base                          every ten minutes: try more again
//! ```

use std::time::{Duration, Instant};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// How often a probe of one size is sent before it is lost.
pub const TRIES: u8 = 3;
/// How long what was found is believed before it is confirmed.
pub const CONFIRM: Duration = Duration::from_secs(15);
/// How long after a search a larger size is tried (`PMTU_RAISE_TIMER`).
pub const RAISE: Duration = Duration::from_secs(600);
/// How exactly is searched.
const STEP: u16 = 8;

/// A probe to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Bytes of the outer packet.
    pub size: u16,
    /// What the answer has to repeat.
    pub nonce: u64,
}

/// The state of a path's search.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    base: u16,
    most: u16,
    /// What passes, as far as is known.
    low: u16,
    /// The least that is known not to pass, or one more than the most that is wanted.
    high: u16,
    confirm: Instant,
    raise: Instant,
    sent: Option<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    probe: Probe,
    at: Instant,
    tries: u8,
}

impl Search {
    /// Begins with the hope that what is wanted passes.
    #[must_use]
    pub fn new(base: u16, most: u16, now: Instant) -> Self {
        let most = most.max(base);
        Self { base, most, low: most, high: most + 1, confirm: now, raise: now + RAISE, sent: None }
    }

    /// What may be sent now.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.low
    }

    /// The most that is wanted.
    #[must_use]
    pub const fn most(&self) -> u16 {
        self.most
    }

    /// The probe that is due. Called now and then while something is sent to the peer; `nonce`: one that nobody can
    /// guess, never 0.
    pub fn poll(&mut self, now: Instant, nonce: u64) -> Option<Probe> {
        let mut tries = 0;
        let mut size = None;
        if let Some(sent) = self.sent {
            if now < sent.at + PATIENCE {
                return None;
            }
            self.sent = None;
            if sent.tries < TRIES {
                (tries, size) = (sent.tries, Some(sent.probe.size));
            } else {
                self.lost(sent.probe.size, now);
            }
        }
        let size = size.or_else(|| self.wanted(now))?;
        let probe = Probe { size, nonce };
        self.sent = Some(Sent { probe, at: now, tries: tries + 1 });
        Some(probe)
    }

    /// The size that should be tried.
    fn wanted(&mut self, now: Instant) -> Option<u16> {
        if now >= self.confirm {
            return Some(self.low);
        }
        if now >= self.raise && self.low < self.most {
            // Most often the path is what it was before.
            self.high = self.most + 1;
            self.raise = now + RAISE;
            return Some(self.most);
        }
        let between = self.high - self.low;
        (between > STEP).then_some(self.low + between / 2)
    }

    /// The size in use is to be confirmed at once.
    pub const fn confirm(&mut self, now: Instant) {
        self.confirm = now;
    }

    /// A probe was answered: that of which size, if it was the one that was sent last.
    pub fn answered(&mut self, nonce: u64, now: Instant) -> Option<u16> {
        let sent = self.sent.take_if(|sent| sent.probe.nonce == nonce)?;
        self.low = self.low.max(sent.probe.size);
        self.high = self.high.max(self.low + 1);
        self.confirm = now + CONFIRM;
        Some(sent.probe.size)
    }

    /// All probes of a size are lost.
    fn lost(&mut self, size: u16, now: Instant) {
        if size > self.low {
            self.high = self.high.min(size);
        } else if self.low > self.base {
            // A black hole: what passed does not any more.
            self.high = self.low;
            self.low = self.base;
        }
        // The base itself is not given up: a peer that answers nothing is not the path's fault.
        self.confirm = now + if self.low == self.base { PATIENCE } else { CONFIRM };
        self.raise = now + RAISE;
    }

    /// The host or a router says what passes; less than the base is not believed.
    pub fn refused(&mut self, mtu: u16, now: Instant) {
        let mtu = mtu.max(self.base);
        if mtu >= self.high {
            return;
        }
        self.high = mtu + 1;
        if mtu < self.low {
            self.low = mtu;
            self.confirm = now;
        }
        self.raise = now + RAISE;
        self.sent = self.sent.filter(|sent| sent.probe.size <= mtu);
    }
}

#[cfg(test)]
mod tests;
