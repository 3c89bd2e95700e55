//! When the watchers of a network are told of a change. Pure.
//!
//! ```text
//!  change after quiet ──▶ at once ──▶ fan-out, measured ──▶ pause = 4 × its CPU time, at most 1 s
//! ```
//!
//! So fan-out takes at most a fifth of a core per network, and a lone change waits for nothing. A fan-out
//! is over when every watcher that was up to date before has taken its messages: one that reads nothing
//! holds it up once, not every time.

use std::time::Duration;

use tokio::time::Instant;

/// How many times its CPU time a fan-out is followed by a pause.
const PAUSES: u32 = 4;
/// The longest pause, and the longest that a fan-out is waited for.
const LONGEST: Duration = Duration::from_secs(1);

/// CPU time that this process has used.
pub(super) type CpuTime = fn() -> Duration;

/// Who has taken what the last ring told of, and when the bell may ring again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FanOut {
    up_to_date: usize,
    waiting: usize,
    not_before: Option<Instant>,
    measured: Option<Measured>,
}

/// A fan-out under way.
#[derive(Clone, Copy, Debug)]
struct Measured {
    began: Instant,
    /// CPU time of the process when it began.
    cpu: Duration,
}

impl FanOut {
    /// A new watcher, up to date.
    pub(super) const fn join(&mut self) {
        self.up_to_date += 1;
    }

    /// A watcher that was `behind` that many rings is up to date. Whether that ended the fan-out.
    pub(super) fn took(&mut self, behind: u64, cpu: CpuTime) -> bool {
        if behind == 0 {
            return false;
        }
        self.up_to_date += 1;
        behind == 1 && self.one_less_waits(cpu)
    }

    /// A watcher that is `behind` that many rings is gone. Whether that ended the fan-out.
    pub(super) fn leave(&mut self, behind: u64, cpu: CpuTime) -> bool {
        match behind {
            0 => self.up_to_date -= 1,
            1 => return self.one_less_waits(cpu),
            _ => {}
        }
        false
    }

    /// The bell has rung: nobody is up to date.
    pub(super) fn rang(&mut self, now: Instant, cpu: CpuTime) {
        self.waiting = std::mem::take(&mut self.up_to_date);
        self.measured = Some(Measured { began: now, cpu: cpu() });
        self.not_before = Some(now + LONGEST);
        if self.waiting == 0 {
            self.not_before = None;
        }
    }

    /// The earliest time for the next ring.
    pub(super) fn due(&self, now: Instant) -> Instant {
        self.not_before.map_or(now, |earliest| earliest.max(now))
    }

    fn one_less_waits(&mut self, cpu: CpuTime) -> bool {
        // Who was up to date before the ring waits after it, until it takes or leaves, once.
        self.waiting -= 1;
        if self.waiting > 0 {
            return false;
        }
        if let Some(Measured { began, cpu: before }) = self.measured.take() {
            let pause = cpu().saturating_sub(before).saturating_mul(PAUSES).min(LONGEST);
            self.not_before = Some(began + pause);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const NONE: CpuTime = || Duration::ZERO;

    fn joined(watchers: usize) -> FanOut {
        let mut fan_out = FanOut::default();
        (0..watchers).for_each(|_| fan_out.join());
        fan_out
    }

    #[test]
    fn the_first_ring_waits_for_nothing_the_next_for_four_times_the_cpu_time() {
        let start = Instant::now();
        let mut fan_out = joined(2);
        assert_eq!(fan_out.due(start), start);
        fan_out.rang(start, || ms(500));
        assert!(!fan_out.took(1, || ms(510)));
        assert_eq!(fan_out.due(start + ms(1)), start + ms(1000), "one has not come yet");
        assert!(fan_out.took(1, || ms(530)));
        assert_eq!(fan_out.due(start + ms(40)), start + ms(120));
        assert_eq!(fan_out.due(start + ms(300)), start + ms(300), "quiet since");
        fan_out.rang(start + ms(300), || ms(600));
        assert!(!fan_out.took(1, NONE) && fan_out.leave(1, || ms(1600)));
        assert_eq!(fan_out.due(start + ms(300)), start + ms(1300), "at most a second");
    }

    #[test]
    fn a_watcher_that_reads_nothing_holds_the_bell_up_once() {
        let start = Instant::now();
        let mut fan_out = joined(2);
        fan_out.rang(start, NONE);
        assert!(!fan_out.took(1, NONE));
        assert_eq!(fan_out.due(start), start + ms(1000));
        fan_out.rang(start + ms(1000), NONE);
        assert!(fan_out.took(1, NONE), "the other one is not waited for");
        assert_eq!(fan_out.due(start + ms(1001)), start + ms(1001));
        assert!(!fan_out.took(2, NONE), "it is back");
        fan_out.rang(start + ms(2000), NONE);
        assert!(!fan_out.took(1, NONE) && fan_out.took(1, NONE));
        assert!(!fan_out.leave(0, NONE) && !fan_out.leave(0, NONE));
    }

    #[test]
    fn without_watchers_there_is_no_pause() {
        let start = Instant::now();
        let mut fan_out = joined(0);
        fan_out.rang(start, NONE);
        assert_eq!(fan_out.due(start), start);
    }
}
