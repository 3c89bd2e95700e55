//! Neighbours that do not answer: believed at once, forgiven only after a while, unless it was a single slip.
//!
//! ```text
//!  fails ─▶ silent ─▶ answers within a second, and had not failed lately ─▶ forgiven at once
//!                 └─▶ answers ──────────── for 30 s ───────────────────▶ forgiven
//! ```
//!
//! `ip neigh flush` and a flapping carrier make the kernel tell a failure of neighbours that it has not even asked. With
//! the next packet it asks, and they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// How long a neighbour must have answered: one that comes and goes would move
/// its packets to and fro.
const FORGIVEN: Duration = Duration::from_secs(30);
/// Who answers as soon as this after its failure was there all the time. One that is gone is told to have failed after
/// questions that took longer.
const SLIP: Duration = Duration::from_secs(1);

/// How often one who does not answer is asked for.
const ASK: Duration = Duration::from_secs(10);

/// Somebody who has failed.
#[derive(Debug)]
struct Silent {
    /// When it failed last.
    failed: Instant,
    /// It had failed shortly before that as well.
    again: bool,
    /// Since when it has answered.
    answers: Option<Instant>,
}

impl Silent {
    /// When it is forgiven, if it goes on answering.
    fn forgiven(&self) -> Option<Instant> {
        let answers = self.answers?;
        let is_slip = !self.again && answers <= self.failed + SLIP;
        Some(if is_slip { answers } else { answers + FORGIVEN })
    }
}

/// The silent, and those whose slip is not forgotten.
#[derive(Debug, Default)]
pub(super) struct Silence {
    silent: BTreeMap<IpAddr, Silent>,
    /// When they are asked again.
    asked_next: Option<Instant>,
    /// Who was forgiven a slip, and when it had failed.
    slips: BTreeMap<IpAddr, Instant>,
}

impl Silence {
    /// Those who were silent when a process before this one ended.
    pub(super) fn recalled(silent: &BTreeSet<IpAddr>, now: Instant) -> Self {
        let mut this = Self::default();
        for address in silent {
            this.silent.insert(*address, Silent { failed: now, again: true, answers: None });
            this.asked_next = Some(now + ASK);
        }
        this
    }

    /// Those who are to be asked now: where nobody sends to them, the kernel does not ask for them by itself. Who is
    /// nobody's address any more is forgotten.
    pub(super) fn take_mute(&mut self, now: Instant, knows: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        if self.asked_next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.silent.retain(|address, _| knows(*address));
        let mute = self.silent.iter().filter(|(_, silent)| silent.answers.is_none());
        let mute: Vec<_> = mute.map(|(address, _)| *address).collect();
        self.asked_next = (!mute.is_empty()).then_some(now + ASK);
        mute
    }

    /// Takes what the kernel told; true when the neighbour counts as silent
    /// from now on.
    pub(super) fn heard(&mut self, address: IpAddr, answers: bool, now: Instant) -> bool {
        if answers {
            if let Some(silent) = self.silent.get_mut(&address) {
                silent.answers.get_or_insert(now);
            }
            return false;
        }
        let before = self.silent.get(&address);
        // Failing again without an answer between is one failure.
        let came_and_went = before.is_some_and(|before| before.again || before.answers.is_some());
        let slipped = self.slips.remove(&address).is_some_and(|failed| now < failed + FORGIVEN);
        let is_new = before.is_none();
        self.asked_next.get_or_insert(now + ASK);
        self.silent.insert(address, Silent { failed: now, again: came_and_went || slipped, answers: None });
        is_new
    }

    /// When somebody may be forgiven next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.silent.values().filter_map(Silent::forgiven).min()
    }

    /// When those who do not answer are asked for next.
    pub(super) const fn asks(&self) -> Option<Instant> {
        self.asked_next
    }

    /// Those who are forgiven now.
    pub(super) fn forgive(&mut self, now: Instant) -> Vec<IpAddr> {
        self.slips.retain(|_, failed| now < *failed + FORGIVEN);
        let is_over = |silent: &Silent| silent.forgiven().is_some_and(|due| due <= now);
        let (over, silent): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.silent).into_iter().partition(|(_, silent)| is_over(silent));
        self.silent = silent;
        self.slips.extend(over.iter().map(|(address, silent)| (*address, silent.failed)));
        if self.silent.is_empty() {
            self.asked_next = None;
        }
        over.into_keys().collect()
    }

    /// Who counts as silent.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.silent.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_believed_at_once_and_forgiven_late() {
        let mut silence = Silence::default();
        let (address, begin) = ("192.0.2.2".parse().unwrap(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(!silence.heard(address, true, begin), "nobody waits for it");
        assert!(silence.heard(address, false, begin));
        assert!(!silence.heard(address, false, begin), "that is known");
        assert_eq!(silence.due(), None);

        silence.heard(address, true, after(10));
        silence.heard(address, true, after(20));
        assert_eq!(silence.due(), Some(after(40)), "since the first answer");
        silence.heard(address, false, after(30));
        assert_eq!(silence.due(), None, "it has to begin again");
        assert_eq!(silence.addresses(), BTreeSet::from([address]));

        silence.heard(address, true, after(50));
        assert!(silence.forgive(after(79)).is_empty());
        assert_eq!(silence.forgive(after(80)), [address]);
        assert!(silence.addresses().is_empty());
    }

    #[test]
    fn one_slip_is_forgiven_at_once_and_the_next_is_not() {
        let mut silence = Silence::default();
        let (address, begin) = ("192.0.2.2".parse().unwrap(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        assert!(silence.heard(address, false, begin), "who is gone is moved at once");
        silence.heard(address, true, after(400));
        assert_eq!(silence.due(), Some(after(400)));
        assert_eq!(silence.forgive(after(400)), [address]);

        assert!(silence.heard(address, false, after(5_000)), "it comes and goes");
        silence.heard(address, true, after(5_100));
        assert!(silence.forgive(after(35_099)).is_empty());
        assert_eq!(silence.forgive(after(35_100)), [address]);

        assert!(silence.heard(address, false, after(60_000)), "that was long ago");
        silence.heard(address, true, after(60_100));
        assert_eq!(silence.forgive(after(60_100)), [address]);
    }

    #[test]
    fn who_is_silent_is_asked_for_until_it_answers() {
        let mut silence = Silence::default();
        let [one, gone]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.3"].map(|address| address.parse().unwrap());
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let knows = |address| address == one;
        silence.heard(one, false, begin);
        silence.heard(gone, false, begin);
        assert_eq!(silence.asks(), Some(after(10)));
        assert_eq!(silence.take_mute(after(9), knows), Vec::<IpAddr>::new());
        assert_eq!(silence.take_mute(after(10), knows), [one]);
        assert_eq!((silence.addresses().len(), silence.asks()), (1, Some(after(20))));
        silence.heard(one, true, after(12));
        assert_eq!(silence.take_mute(after(20), knows), Vec::<IpAddr>::new(), "it has answered");
        assert_eq!(silence.asks(), None);

        let mut next = Silence::recalled(&silence.addresses(), after(50));
        assert_eq!(next.asks(), Some(after(60)));
        assert_eq!(next.take_mute(after(60), knows), [one]);
    }

    #[test]
    fn who_takes_longer_to_answer_was_gone() {
        let mut silence = Silence::default();
        let (address, begin) = ("192.0.2.2".parse().unwrap(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        silence.heard(address, false, begin);
        silence.heard(address, true, after(1_001));
        assert_eq!(silence.due(), Some(after(31_001)));
        // It fails, and answers soon: it comes and goes, whatever is between.
        silence.heard(address, false, after(4_000));
        silence.heard(address, true, after(4_100));
        assert_eq!(silence.due(), Some(after(34_100)));
    }
}
