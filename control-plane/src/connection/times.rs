//! The times of one connection that run out.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Patience;

/// What is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Due {
    /// HTTP/2 should have begun.
    Preface,
    /// A host without a certificate should be gone.
    Joining,
    /// The client should come back over another connection.
    Age,
    /// A client that was asked to go should be gone.
    Stay,
}

/// When what is due; each once.
#[derive(Debug)]
pub(super) struct Times(Vec<(Instant, Due)>);

impl Times {
    /// Those of a new connection; `chance` is uniform in 0..1.
    pub(super) fn of(patience: &Patience, joins: bool, chance: f64, now: Instant) -> Self {
        let mut times =
            vec![(now + patience.preface, Due::Preface), (now + age(patience.age, chance), Due::Age)];
        if joins {
            times.push((now + patience.joining, Due::Joining));
        }
        Self(times)
    }

    /// The client was asked to go.
    pub(super) fn asked(&mut self, patience: &Patience, now: Instant) {
        self.0.push((now + patience.staying, Due::Stay));
    }

    /// Waits for the next one, for ever where there is none.
    pub(super) async fn next(&mut self) -> Due {
        let Some((at, due)) = self.0.iter().copied().min_by_key(|(at, _)| *at) else {
            return pending().await;
        };
        sleep_until(at).await;
        self.0.retain(|(_, other)| *other != due);
        due
    }
}

/// How old a connection becomes: a tenth more or less, so that those that were made in one moment do not end in one.
fn age(most: Duration, chance: f64) -> Duration {
    most.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_connection_becomes_as_old_as_it_may_give_or_take_a_tenth() {
        for (chance, seconds) in [(0.0, 3240), (0.5, 3600), (1.0, 3960), (7.0, 3960)] {
            let off = age(3600 * SECOND, chance).abs_diff(seconds * SECOND);
            assert!(off < Duration::from_micros(1), "{chance}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_due_once_in_the_order_of_time() {
        let patience = Patience { age: 20 * SECOND, ..Patience::default() };
        let begin = Instant::now();
        let mut times = Times::of(&patience, true, 0.5, begin);
        for (due, seconds) in [(Due::Preface, 5), (Due::Age, 20)] {
            assert_eq!((times.next().await, begin.elapsed().as_secs()), (due, seconds));
        }
        times.asked(&patience, Instant::now());
        for (due, seconds) in [(Due::Joining, 30), (Due::Stay, 30)] {
            assert_eq!((times.next().await, begin.elapsed().as_secs()), (due, seconds));
        }
        assert!(tokio::time::timeout(10_000 * SECOND, times.next()).await.is_err(), "nothing else is due");
    }
}
