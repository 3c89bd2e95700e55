//! Whether to look again and again for the next packet, or to sleep until it comes.
//!
//! To be woken up takes longer than most of what a packet needs, and who waits for an answer waits for it four times on
//! the way there and back. But looking takes a whole processor. So it is tried, and kept up where it brings packets
//! sooner: where each waits for the one before. A stream that comes at its own pace is not looked for.
//!
//! ```text
//!  sleep for a round ── packets come close ──▶ look for a round ── sooner ──▶ look on ── at times ──▶ sleep for a round
//!        ▲                                           └─ no sooner ──▶ sleep on, each time longer ──┐
//!        └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::time::Duration;

/// Longer is no look.
pub(super) const LONGEST: Duration = Duration::from_micros(200);
/// Packets come close when they do so within this, on average.
const CLOSE: Duration = Duration::from_micros(150);
/// Waits of a round.
const ROUND: u32 = 512;
/// Rounds until it is seen again what sleeping would be like.
const LOOK_ON: u32 = 64;
/// Rounds after the first attempt that was no use, and at most.
const SLEEP_ON: [u32; 2] = [4, 1024];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Sleep,
    /// After a round of sleep with waits of this mean.
    Try(Duration),
    LookOn(u32),
    SleepOn(u32),
}

/// What is known of the waits of one loop.
#[derive(Debug)]
pub(super) struct Looks {
    phase: Phase,
    /// Of this round.
    waits: u32,
    total: Duration,
    /// Rounds after the next attempt that is no use.
    sleep_on: u32,
}

impl Default for Looks {
    fn default() -> Self {
        Self { phase: Phase::Sleep, waits: 0, total: Duration::ZERO, sleep_on: SLEEP_ON[0] }
    }
}

impl Looks {
    /// Whether to look for the next packet.
    pub(super) const fn pay(&self) -> bool {
        matches!(self.phase, Phase::Try(_) | Phase::LookOn(_))
    }

    /// Takes in how long the last wait took.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waits += 1;
        self.total += time.min(LONGEST);
        if self.waits == ROUND {
            let mean = self.total / ROUND;
            (self.waits, self.total) = (0, Duration::ZERO);
            self.phase = self.next(mean);
        }
    }

    fn next(&mut self, mean: Duration) -> Phase {
        match self.phase {
            Phase::Sleep if mean < CLOSE => Phase::Try(mean),
            Phase::Try(asleep) if mean * 8 < asleep * 7 => {
                self.sleep_on = SLEEP_ON[0];
                Phase::LookOn(LOOK_ON)
            }
            Phase::Try(_) => {
                let rounds = self.sleep_on;
                self.sleep_on = (2 * rounds).min(SLEEP_ON[1]);
                Phase::SleepOn(rounds)
            }
            Phase::LookOn(rounds) if mean < CLOSE && rounds > 1 => Phase::LookOn(rounds - 1),
            Phase::SleepOn(rounds) if rounds > 1 => Phase::SleepOn(rounds - 1),
            Phase::Sleep | Phase::LookOn(_) | Phase::SleepOn(_) => Phase::Sleep,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const WAITS: u32 = 1_000_000;

    /// The share of waits that were looked through, where waits take so many microseconds.
    fn share(mut wait: impl FnMut(bool) -> f64) -> f64 {
        let (mut looks, mut looked) = (Looks::default(), 0);
        for _ in 0..WAITS {
            let pays = looks.pay();
            looked += u32::from(pays);
            looks.waited(Duration::from_secs_f64(wait(pays) / 1e6));
        }
        f64::from(looked) / f64::from(WAITS)
    }

    #[test]
    fn where_each_packet_waits_for_the_one_before_it_pays() {
        let share = share(|looked| if looked { 40.0 } else { 120.0 });
        assert!(share > 0.98, "{share}");
    }

    #[test]
    fn a_stream_at_its_own_pace_is_slept_through() {
        let steady = share(|_| 140.0);
        assert!(steady < 0.01, "{steady}");
        let mut random = StdRng::seed_from_u64(1);
        let chance = share(|_| -100.0 * random.random::<f64>().ln());
        assert!(chance < 0.1, "{chance}");
    }

    #[test]
    fn packets_that_are_far_apart_are_never_looked_for() {
        assert_eq!(share(|_| 160.0), 0.0);
        assert_eq!(share(|_| 1e6), 0.0);
    }

    #[test]
    fn it_ends_when_packets_come_far_apart() {
        let mut count = 0;
        let share = share(|looked| {
            count += 1;
            if count > WAITS / 2 {
                1000.0
            } else if looked {
                40.0
            } else {
                120.0
            }
        });
        assert!((0.49..0.502).contains(&share), "{share}");
    }
}
