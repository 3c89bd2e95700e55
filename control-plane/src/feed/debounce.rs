//! When the watchers of a network are told of a change. Pure.
//!
//! ```text
//!  change after quiet ──▶ at once ──▶ fan-out, measured ──▶ pause = 4 × its CPU time, at most 1 s
//! ```
//!
//! So fan-out takes at most a fifth of a core per network, and a lone change waits for nothing. A fan-out
//! is over when every watcher that was up to date before has taken its messages, or when for a moment nobody
//! takes any: those who are left do not read, and the others do not wait for them.

use std::time::Duration;

use tokio::time::Instant;

/// How many times its CPU time a fan-out is followed by a pause.
const PAUSES: u32 = 4;
/// The longest pause, and the longest that a fan-out is waited for.
const LONGEST: Duration = Duration::from_secs(1);
/// When nobody has taken anything for this long, nobody will.
const STANDSTILL: Duration = Duration::from_millis(25);

/// CPU time that this process has used.
pub(super) type CpuTime = fn() -> Duration;

/// Who has taken what the last ring told of, and when the bell may ring again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FanOut {
    up_to_date: usize,
    waiting: usize,
    not_before: Option<Instant>,
    under_way: Option<UnderWay>,
}

/// A fan-out under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    began: Instant,
    /// When somebody took something last.
    moved: Instant,
    /// CPU time of the process when it began.
    cpu: Duration,
}

impl UnderWay {
    /// When it is over at the latest, if nobody takes anything from now on.
    fn deadline(&self) -> Instant {
        (self.moved + STANDSTILL).min(self.began + LONGEST)
    }
}

impl FanOut {
    /// A new watcher, up to date.
    pub(super) const fn join(&mut self) {
        self.up_to_date += 1;
    }

    /// A watcher that was `behind` that many rings is up to date. Whether that ended the fan-out.
    pub(super) fn took(&mut self, behind: u64, now: Instant, cpu: CpuTime) -> bool {
        if behind == 0 {
            return false;
        }
        self.up_to_date += 1;
        behind == 1 && self.one_less_waits(now, cpu)
    }

    /// A watcher that is `behind` that many rings is gone. Whether that ended the fan-out.
    pub(super) fn leave(&mut self, behind: u64, now: Instant, cpu: CpuTime) -> bool {
        match behind {
            0 => self.up_to_date -= 1,
            1 => return self.one_less_waits(now, cpu),
            _ => {}
        }
        false
    }

    /// The bell has rung: nobody is up to date.
    pub(super) fn rang(&mut self, now: Instant, cpu: CpuTime) {
        self.waiting = std::mem::take(&mut self.up_to_date);
        self.not_before = None;
        self.under_way = (self.waiting > 0).then(|| UnderWay { began: now, moved: now, cpu: cpu() });
    }

    /// The earliest time for the next ring, as far as is known: ask again then.
    pub(super) fn due(&mut self, now: Instant, cpu: CpuTime) -> Instant {
        if self.under_way.is_some_and(|fan_out| fan_out.deadline() <= now) {
            self.end(cpu);
        }
        let earliest = self.under_way.map(|fan_out| fan_out.deadline()).or(self.not_before);
        earliest.map_or(now, |earliest| earliest.max(now))
    }

    fn one_less_waits(&mut self, now: Instant, cpu: CpuTime) -> bool {
        // Who was up to date before the ring waits after it, until it takes or leaves, once.
        self.waiting -= 1;
        if self.waiting > 0 {
            if let Some(fan_out) = &mut self.under_way {
                fan_out.moved = now;
            }
            return false;
        }
        self.end(cpu);
        true
    }

    fn end(&mut self, cpu: CpuTime) {
        if let Some(UnderWay { began, cpu: before, .. }) = self.under_way.take() {
            let pause = cpu().saturating_sub(before).saturating_mul(PAUSES).min(LONGEST);
            self.not_before = Some(began + pause);
        }
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
        assert_eq!(fan_out.due(start, NONE), start);
        fan_out.rang(start, || ms(500));
        assert!(!fan_out.took(1, start + ms(20), || ms(510)));
        assert_eq!(fan_out.due(start + ms(21), NONE), start + ms(45), "one has not come yet");
        assert!(fan_out.took(1, start + ms(40), || ms(530)));
        assert_eq!(fan_out.due(start + ms(40), NONE), start + ms(120));
        assert_eq!(fan_out.due(start + ms(300), NONE), start + ms(300), "quiet since");
        fan_out.rang(start + ms(300), || ms(600));
        assert!(!fan_out.took(1, start + ms(310), NONE));
        assert!(fan_out.leave(1, start + ms(310), || ms(1600)));
        assert_eq!(fan_out.due(start + ms(310), NONE), start + ms(1300), "at most a second");
    }

    #[test]
    fn watchers_that_read_nothing_hold_the_bell_up_for_a_moment_and_once() {
        let start = Instant::now();
        let mut fan_out = joined(3);
        fan_out.rang(start, || ms(100));
        assert!(!fan_out.took(1, start + ms(2), NONE));
        assert_eq!(fan_out.due(start + ms(2), NONE), start + ms(27));
        assert_eq!(fan_out.due(start + ms(27), || ms(110)), start + ms(40), "what the others cost counts");
        fan_out.rang(start + ms(40), NONE);
        assert!(fan_out.took(1, start + ms(41), NONE), "the other two are not waited for");
        assert_eq!(fan_out.due(start + ms(41), NONE), start + ms(41));
        assert!(!fan_out.took(2, start + ms(50), NONE), "one is back");
        fan_out.rang(start + ms(60), NONE);
        assert!(!fan_out.took(1, start + ms(61), NONE) && fan_out.took(1, start + ms(62), NONE));
        assert!(!fan_out.leave(0, start + ms(70), NONE) && !fan_out.leave(0, start + ms(70), NONE));
    }

    #[test]
    fn one_that_takes_late_does_not_end_the_next_fan_out() {
        let start = Instant::now();
        let mut fan_out = joined(2);
        fan_out.rang(start, NONE);
        assert!(!fan_out.took(1, start, NONE));
        assert_eq!(fan_out.due(start + ms(25), NONE), start + ms(25));
        assert!(fan_out.took(1, start + ms(30), NONE), "nobody is left, and nothing was under way");
        fan_out.rang(start + ms(30), NONE);
        assert!(!fan_out.took(1, start + ms(31), NONE) && fan_out.took(1, start + ms(31), NONE));
    }

    #[test]
    fn a_fan_out_that_moves_is_waited_for_a_second_at_most() {
        let start = Instant::now();
        let mut fan_out = joined(1000);
        fan_out.rang(start, NONE);
        for step in 1..100 {
            let now = start + ms(10) * step;
            assert!(!fan_out.took(1, now, NONE));
            assert_eq!(fan_out.due(now, NONE), (now + STANDSTILL).min(start + LONGEST));
        }
        assert_eq!(fan_out.due(start + LONGEST, || LONGEST), start + LONGEST);
    }

    #[test]
    fn without_watchers_there_is_no_pause() {
        let start = Instant::now();
        let mut fan_out = joined(0);
        fan_out.rang(start, NONE);
        assert_eq!(fan_out.due(start, NONE), start);
    }
}
