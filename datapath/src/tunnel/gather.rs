//! Whether datagrams that are sent many at once arrive: which pair is sent when, and what its answers or its loss mean.
//! Plain data.
//!
//! ```text
//!  trusted: a pair now and then ──lost──▶ suspected ──one alone of that size arrives──▶ one by one
//!     ▲            the kernel refuses ────────────────────────────────────────────────────▶ │
//!     └───────────────────────── every ten minutes: a pair ──both arrive────────────────────┘
//! ```
//!
//! Cards and their drivers cut what is sent at once, and so do virtual ones on the way. One that does it wrongly loses or
//! damages all but the first datagram, and the way looks as if it were bad.

use std::time::Instant;

use super::search::{CONFIRM, PATIENCE, RAISE, TRIES};

/// Two probes that are sent at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pair {
    /// Bytes of each outer packet.
    pub size: u16,
    /// What the answers have to repeat.
    pub nonces: [u64; 2],
}

/// What is known of the way to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    trusted: bool,
    due: Instant,
    sent: Option<Sent>,
    /// The size of pairs that are lost, until one alone of that size was sent.
    suspected: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    pair: Pair,
    answered: [bool; 2],
    at: Instant,
    tries: u8,
}

impl Gather {
    /// Begins with the hope that they arrive.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { trusted: true, due: now, sent: None, suspected: None }
    }

    /// Whether many may be sent at once.
    #[must_use]
    pub const fn trusts(&self) -> bool {
        self.trusted
    }

    /// Whether one alone should be sent, of the size in use.
    #[must_use]
    pub const fn suspects(&self) -> bool {
        self.suspected.is_some()
    }

    /// The pair that is due. Called now and then while something is sent to the peer, with the size in use; `nonces`:
    /// such as nobody can guess.
    pub fn poll(&mut self, now: Instant, size: u16, nonces: [u64; 2]) -> Option<Pair> {
        let mut tries = 0;
        if let Some(sent) = self.sent {
            if now < sent.at + PATIENCE {
                return None;
            }
            self.sent = None;
            if sent.tries == TRIES {
                self.lost(sent.pair.size, now);
                return None;
            }
            tries = sent.tries;
        } else if now < self.due || self.suspects() {
            return None;
        }
        let pair = Pair { size, nonces };
        self.sent = Some(Sent { pair, answered: [false; 2], at: now, tries: tries + 1 });
        Some(pair)
    }

    fn lost(&mut self, size: u16, now: Instant) {
        if self.trusted {
            self.suspected = Some(size);
        } else {
            self.due = now + RAISE;
        }
    }

    /// A probe was answered; others than those of the pair do not count.
    pub fn answered(&mut self, nonce: u64, now: Instant) {
        let Some(sent) = &mut self.sent else { return };
        for (own, answered) in sent.pair.nonces.iter().zip(&mut sent.answered) {
            *answered |= *own == nonce;
        }
        if sent.answered == [true; 2] {
            *self = Self { trusted: true, due: now + CONFIRM, sent: None, suspected: None };
        }
    }

    /// One that was sent alone has arrived: where a pair of that size has not, it is not the way.
    pub fn single_arrived(&mut self, size: u16, now: Instant) {
        let Some(lost) = self.suspected.take() else { return };
        if size >= lost {
            self.refused(now);
        } else {
            self.due = now;
        }
    }

    /// The kernel does not send many at once on this way.
    pub fn refused(&mut self, now: Instant) {
        *self = Self { trusted: false, due: now + RAISE, sent: None, suspected: None };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SIZE: u16 = 1500;

    /// Looks every 100 ms for so long; answers the pairs that were sent.
    fn polled(gather: &mut Gather, now: &mut Instant, long: Duration) -> Vec<Pair> {
        let end = *now + long;
        let mut pairs = Vec::new();
        while *now < end {
            let nonce = u64::try_from(pairs.len()).unwrap() * 2 + 1;
            pairs.extend(gather.poll(*now, SIZE, [nonce, nonce + 1]));
            *now += Duration::from_millis(100);
        }
        pairs
    }

    fn suspicious() -> (Gather, Instant) {
        let mut now = Instant::now();
        let mut gather = Gather::new(now);
        let sent = polled(&mut gather, &mut now, Duration::from_secs(2));
        assert_eq!(sent.len(), usize::from(TRIES));
        assert!(gather.suspects() && gather.trusts(), "it may be the way");
        (gather, now)
    }

    #[test]
    fn pairs_that_arrive_are_sent_now_and_then() {
        let mut now = Instant::now();
        let mut gather = Gather::new(now);
        for _ in 0..3 {
            let pair = gather.poll(now, SIZE, [7, 8]).unwrap();
            assert_eq!(pair, Pair { size: SIZE, nonces: [7, 8] });
            gather.answered(8, now);
            gather.answered(9, now);
            assert!(gather.poll(now, SIZE, [1, 2]).is_none(), "one of them is missing");
            gather.answered(7, now);
            assert_eq!(polled(&mut gather, &mut now, CONFIRM - Duration::from_millis(1)), []);
            now += Duration::from_millis(1);
        }
        assert!(gather.trusts());
    }

    #[test]
    fn one_of_two_is_not_enough() {
        let mut now = Instant::now();
        let mut gather = Gather::new(now);
        for _ in 0..TRIES {
            let pair = gather.poll(now, SIZE, [7, 8]).unwrap();
            gather.answered(pair.nonces[0], now);
            now += PATIENCE;
        }
        assert_eq!(gather.poll(now, SIZE, [7, 8]), None);
        gather.single_arrived(SIZE, now);
        assert!(!gather.trusts());
    }

    #[test]
    fn what_is_lost_on_a_bad_way_says_nothing() {
        let (mut gather, mut now) = suspicious();
        assert_eq!(polled(&mut gather, &mut now, Duration::from_secs(60)), [], "first one alone");
        gather.single_arrived(1280, now);
        assert!(gather.trusts() && !gather.suspects(), "smaller ones pass");
        let again = polled(&mut gather, &mut now, Duration::from_millis(100));
        assert_eq!(again.len(), 1);
    }

    #[test]
    fn what_is_lost_though_one_alone_arrives_is_tried_again_much_later() {
        let (mut gather, mut now) = suspicious();
        gather.single_arrived(SIZE, now);
        assert!(!gather.trusts() && !gather.suspects());
        assert_eq!(polled(&mut gather, &mut now, RAISE - Duration::from_millis(100)), []);
        assert_eq!(polled(&mut gather, &mut now, Duration::from_secs(3)).len(), usize::from(TRIES));
        gather.single_arrived(SIZE, now);
        assert!(!gather.trusts());
        assert_eq!(polled(&mut gather, &mut now, RAISE / 2), []);
        now += RAISE;
        let pair = gather.poll(now, SIZE, [7, 8]).unwrap();
        pair.nonces.iter().for_each(|nonce| gather.answered(*nonce, now));
        assert!(gather.trusts());
    }

    #[test]
    fn what_the_kernel_refuses_is_not_tried_soon() {
        let mut now = Instant::now();
        let mut gather = Gather::new(now);
        gather.refused(now);
        assert!(!gather.trusts());
        assert_eq!(polled(&mut gather, &mut now, RAISE - Duration::from_millis(100)), []);
    }
}
