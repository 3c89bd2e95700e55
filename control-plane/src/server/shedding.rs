//! Letting clients go of which this replica has more than the others: they have room.
//!
//! ```text
//! our clients, notes of the others ─▶ too many, for a while? ─▶ a round: those above our share, over 30 s
//!           ▲                                                        │ so many now
//!           └──────────── come back elsewhere ◀── asked to go ◀──────┘
//! ```
//!
//! The oldest connections go first. They are those that their age would end next, and whoever was moved has one of the
//! youngest where it has come: nobody is moved twice before all others were moved once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use super::housekeeping::note;
use crate::registry::Parting;
use crate::replicas::{Others, Replica, above_share, any_serves, excess};
use crate::service::Shared;

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How often it is looked.
    pub(super) look: Duration,
    /// How long there must have been too many: notes are seconds old, and whoever was moved is not in one yet.
    pub(super) steady: Duration,
    /// Over what time they go.
    pub(super) over: Duration,
    /// The longest rest after rounds that were in vain, since clients came back to us.
    pub(super) rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(500),
            steady: Duration::from_secs(6),
            over: Duration::from_secs(30),
            rest: Duration::from_secs(600),
        }
    }
}

/// Sheds as long as there are others, and we serve.
pub(super) async fn run(shared: Arc<Shared>, others: Others, pace: Pace) {
    let mut shedding = Shedding::new(pace);
    let mut look = interval(pace.look);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let others = Arc::clone(&others.borrow());
        let own = any_serves(&others).then(|| note(&shared, None));
        let Some(own) = own.filter(|own| own.serves) else {
            shedding = Shedding::new(pace);
            continue;
        };
        let rested = shedding.round.is_none();
        let count = shedding.look(own.clients, &others, Instant::now());
        if rested && count > 0 {
            let above = above_share(own.clients, &others);
            info!(clients = own.clients, above, "more clients than the other replicas: some are asked to go");
        }
        shed(&shared, count);
    }
}

fn shed(shared: &Shared, count: u64) {
    if count == 0 {
        return;
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    for link in shared.registry.nodes().iter().take(count) {
        if link.drain(Parting::Shed) {
            shared.metrics.connections_shed.inc();
        }
    }
}

/// When how many are asked to go.
#[derive(Debug)]
struct Shedding {
    pace: Pace,
    /// Since when there are too many.
    since: Option<Instant>,
    /// How long that has to last.
    wait: Duration,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    begun: Instant,
    /// How many are to go.
    clients: u64,
    asked: u64,
}

impl Shedding {
    const fn new(pace: Pace) -> Self {
        Self { pace, since: None, wait: pace.steady, round: None }
    }

    /// How many of `own` clients to ask to go now.
    fn look(&mut self, own: u64, others: &[Replica], now: Instant) -> u64 {
        if self.round.is_none() {
            self.begin(own, others, now);
        }
        let Some(round) = &mut self.round else { return 0 };
        let due = round.due(self.pace.over, now);
        let asked = due.min(above_share(own, others));
        round.asked += asked;
        // It ends early where others have got clients in another way, or ours have gone by themselves.
        if asked < due || round.asked == round.clients {
            self.round = None;
        }
        asked
    }

    /// Begins a round once there have been too many for long enough.
    fn begin(&mut self, own: u64, others: &[Replica], now: Instant) {
        let clients = excess(own, others);
        if clients == 0 {
            (self.since, self.wait) = (None, self.pace.steady);
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.wait {
            self.round = Some(Round { begun: now, clients, asked: 0 });
            self.since = None;
            self.wait = (self.wait * 2).min(self.pace.rest);
        }
    }
}

impl Round {
    /// How many more should have been asked by now. The first one is at once.
    fn due(&self, over: Duration, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.begun);
        let part = elapsed.as_secs_f64() / over.as_secs_f64();
        let by_now = (self.clients as f64 * part) as u64 + 1;
        by_now.min(self.clients) - self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicas::testing::replica;

    const SECOND: Duration = Duration::from_secs(1);

    /// We, and another replica.
    struct Two {
        here: u64,
        there: u64,
        /// Whether those that are asked to go come there, or back to us.
        moves: bool,
    }

    impl Two {
        /// Looks twice a second for so long. Answers how many were asked to go.
        fn look(&mut self, shedding: &mut Shedding, from: Instant, seconds: u64) -> u64 {
            let mut all = 0;
            for half in 0..2 * seconds {
                let now = from + Duration::from_millis(500 * half);
                let asked = shedding.look(self.here, &[replica(self.there, true)], now);
                if self.moves {
                    (self.here, self.there) = (self.here - asked, self.there + asked);
                }
                all += asked;
            }
            all
        }
    }

    #[test]
    fn what_is_above_the_share_goes_over_half_a_minute_once_it_has_lasted() {
        let (mut shedding, begin) = (Shedding::new(Pace::default()), Instant::now());
        let mut two = Two { here: 900, there: 300, moves: true };
        assert_eq!(two.look(&mut shedding, begin, 6), 0);
        let half = two.look(&mut shedding, begin + 6 * SECOND, 15);
        assert!((140..=151).contains(&half), "{half}");
        let rest = two.look(&mut shedding, begin + 21 * SECOND, 16);
        assert_eq!(half + rest, 300);
        assert_eq!(two.look(&mut shedding, begin + 37 * SECOND, 600), 0, "they are even");
    }

    #[test]
    fn what_passes_sheds_nobody() {
        let (mut shedding, begin) = (Shedding::new(Pace::default()), Instant::now());
        for second in (0..600).step_by(5) {
            let mut two = Two { here: 900, there: 0, moves: false };
            assert_eq!(two.look(&mut shedding, begin + second * SECOND, 4), 0);
            two.there = 900;
            assert_eq!(two.look(&mut shedding, begin + (second + 4) * SECOND, 1), 0);
        }
    }

    #[test]
    fn a_round_ends_where_the_others_have_got_clients_in_another_way() {
        let (mut shedding, begin) = (Shedding::new(Pace::default()), Instant::now());
        let mut two = Two { here: 900, there: 0, moves: false };
        assert_eq!(two.look(&mut shedding, begin, 7), 8, "the round has begun");
        two.there = 900;
        assert_eq!(two.look(&mut shedding, begin + 7 * SECOND, 600), 0);
    }

    #[test]
    fn where_clients_only_come_back_to_us_the_rests_grow() {
        let mut two = Two { here: 900, there: 300, moves: false };
        let asked = two.look(&mut Shedding::new(Pace::default()), Instant::now(), 24 * 3600);
        // Seven rounds in a quarter of an hour, and then one every ten and a half minutes.
        assert!((120 * 300..150 * 300).contains(&asked), "{asked}");
    }

    /// Three replicas that know of each other what was true up to two seconds ago, behind a balancer that looks for
    /// the least connections.
    #[test]
    fn after_a_restart_all_are_even_within_a_minute_and_stay_so() {
        let begin = Instant::now();
        let mut counts = [500_u64, 500, 0];
        let mut notes = counts;
        let mut replicas = [(); 3].map(|()| Shedding::new(Pace::default()));
        let mut shed = 0;
        let mut within_a_minute = 0;
        for half in 0..1200_u64 {
            if half % 4 == 0 {
                notes = counts;
            }
            let now = begin + Duration::from_millis(500 * half);
            for (index, shedding) in replicas.iter_mut().enumerate() {
                let others: Vec<_> =
                    (0..3).filter(|other| *other != index).map(|other| replica(notes[other], true)).collect();
                let went = shedding.look(counts[index], &others, now);
                counts[index] -= went;
                for _ in 0..went {
                    *counts.iter_mut().min().unwrap() += 1;
                }
                shed += went;
            }
            if half == 120 {
                within_a_minute = shed;
            }
            if half >= 120 {
                assert!(counts.iter().all(|count| (300..=366).contains(count)), "{counts:?} after {half}");
            }
        }
        assert!((300..=360).contains(&shed), "{shed}");
        assert_eq!(shed, within_a_minute, "at rest");
    }
}
