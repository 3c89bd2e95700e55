//! What became of each echo request.

use std::{fmt, io, time::Duration, time::Instant};

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A reply came after this round trip.
    Replied(Duration),
    /// It was sent and no reply came.
    Lost,
    /// The kernel refused to send it (no route, link down): the errno. Counts as lost.
    Refused(i32),
}

/// One request on the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// When it was sent, since the beginning.
    pub at: Duration,
    /// What became of it.
    pub fate: Fate,
}

impl Echo {
    /// The round trip, if a reply came.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        match self.fate {
            Fate::Replied(round_trip) => Some(round_trip),
            Fate::Lost | Fate::Refused(_) => None,
        }
    }
}

/// An event on the timeline.
#[derive(Clone, Debug)]
pub struct Mark {
    /// When it happened, since the beginning.
    pub at: Duration,
    /// What happened.
    pub label: String,
}

/// The whole run of a ping.
#[derive(Clone, Debug)]
pub struct PingReport {
    /// The beginning that the timeline counts from.
    pub begin: Instant,
    /// The time between two requests.
    pub interval: Duration,
    /// Every request, in order.
    pub timeline: Vec<Echo>,
    /// The events that were marked, in order.
    pub marks: Vec<Mark>,
    /// Second replies to the same request.
    pub duplicates: u64,
    /// Packets of anybody that the machine has thrown away meanwhile, since a queue of its own was full.
    pub overrun: u64,
}

impl PingReport {
    /// How many requests there were, refused ones too.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.timeline.len()
    }

    /// How many were answered.
    #[must_use]
    pub fn received(&self) -> usize {
        self.round_trips().count()
    }

    /// How many were not answered.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.sent() - self.received()
    }

    /// How many requests sent from `from` on and before `to` (since the beginning) were not
    /// answered.
    #[must_use]
    pub fn lost_between(&self, from: Duration, to: Duration) -> usize {
        let sent = self.timeline.iter().filter(|echo| (from..to).contains(&echo.at));
        sent.filter(|echo| echo.round_trip().is_none()).count()
    }

    /// The round trips of all answered requests, in order of sending.
    pub fn round_trips(&self) -> impl Iterator<Item = Duration> + '_ {
        self.timeline.iter().filter_map(Echo::round_trip)
    }

    /// The round trip that `part` (0 to 1) of the answered requests did not exceed; `None` if
    /// none was answered.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.round_trips().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        // In range: `part` is clamped and the product is at most `last`.
        let index = (part.clamp(0.0, 1.0) * last as f64).round() as usize;
        Some(sorted[index])
    }

    /// The longest time without an answered request: from the first unanswered one to the next
    /// answered one, or to the end.
    #[must_use]
    pub fn longest_outage(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut begin = None;
        for echo in &self.timeline {
            match (echo.round_trip(), begin) {
                (None, None) => begin = Some(echo.at),
                (Some(_), Some(at)) => {
                    longest = longest.max(echo.at - at);
                    begin = None;
                }
                _ => {}
            }
        }
        let end = self.timeline.last().map_or(Duration::ZERO, |echo| echo.at + self.interval);
        longest.max(begin.map_or(Duration::ZERO, |at| end - at))
    }

    /// How long after `since` requests were answered again, and all of them from then on; `None`: they never
    /// were.
    #[must_use]
    pub fn restored_after(&self, since: Instant) -> Option<Duration> {
        let since = since.saturating_duration_since(self.begin);
        let begin = self.timeline.partition_point(|echo| echo.at < since);
        let later = &self.timeline[begin..];
        let lost = later.iter().rposition(|echo| echo.round_trip().is_none());
        let answered = later.get(lost.map_or(0, |index| index + 1))?;
        Some(if lost.is_some() { answered.at - since } else { Duration::ZERO })
    }

    /// When the first event with this label happened, since the beginning.
    #[must_use]
    pub fn mark(&self, label: &str) -> Option<Duration> {
        self.marks.iter().find(|mark| mark.label == label).map(|mark| mark.at)
    }
}

/// One line for people, with why requests were lost.
impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} lost", self.sent(), self.lost())?;
        if let (Some(median), Some(p99)) = (self.quantile(0.5), self.quantile(0.99)) {
            write!(f, ", round trip p50 {median:.0?}, p99 {p99:.0?}")?;
        }
        if self.lost() > 0 {
            write!(f, ", longest outage {:.0?}", self.longest_outage())?;
        }
        if self.overrun > 0 {
            write!(f, ", the machine itself threw {} packets away", self.overrun)?;
        }
        let refused = self.timeline.iter().find_map(|echo| match echo.fate {
            Fate::Refused(errno) => Some(errno),
            Fate::Replied(_) | Fate::Lost => None,
        });
        match refused {
            Some(errno) => write!(f, ", not sent: {}", io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(5);

    fn report(fates: &[Fate]) -> PingReport {
        let at = (0..).map(|n| STEP * n);
        let timeline = at.zip(fates).map(|(at, &fate)| Echo { at, fate }).collect();
        let (begin, marks) = (Instant::now(), Vec::new());
        PingReport { begin, interval: STEP, timeline, marks, duplicates: 0, overrun: 0 }
    }

    fn replied(micros: u64) -> Fate {
        Fate::Replied(Duration::from_micros(micros))
    }

    #[test]
    fn refused_and_lost_requests_are_both_lost() {
        let report = report(&[replied(1), Fate::Lost, Fate::Refused(libc::ENETUNREACH), replied(2)]);
        assert_eq!((report.sent(), report.received(), report.lost()), (4, 2, 2));
        assert_eq!(report.lost_between(STEP, STEP * 2), 1);
    }

    #[test]
    fn an_outage_lasts_until_the_next_answered_request() {
        let fates = [replied(1), Fate::Lost, Fate::Lost, replied(1), Fate::Lost, replied(1)];
        assert_eq!(report(&fates).longest_outage(), STEP * 2);
    }

    #[test]
    fn an_outage_that_never_ends_lasts_to_the_end() {
        assert_eq!(report(&[replied(1), Fate::Lost, Fate::Lost]).longest_outage(), STEP * 2);
    }

    #[test]
    fn what_is_lost_again_is_not_restored_yet() {
        let lost_twice = report(&[replied(1), Fate::Lost, replied(1), Fate::Lost, replied(1), replied(1)]);
        let since = |steps| lost_twice.begin + STEP * steps;
        assert_eq!(lost_twice.restored_after(since(1)), Some(STEP * 3));
        assert_eq!(lost_twice.restored_after(since(4)), Some(Duration::ZERO));
        let never = report(&[replied(1), Fate::Lost]);
        assert_eq!(never.restored_after(never.begin), None);
    }

    #[test]
    fn quantiles_are_of_the_answered_requests() {
        let mixed = report(&[replied(3), Fate::Lost, replied(1), replied(2)]);
        assert_eq!(mixed.quantile(0.0), Some(Duration::from_micros(1)));
        assert_eq!(mixed.quantile(0.5), Some(Duration::from_micros(2)));
        assert_eq!(mixed.quantile(1.0), Some(Duration::from_micros(3)));
        assert_eq!(report(&[Fate::Lost]).quantile(0.5), None);
    }
}
