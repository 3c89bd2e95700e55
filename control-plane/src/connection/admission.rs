//! Whose handshake is next: one address that floods us must not keep the others out.
//!
//! ```text
//! accepted ──enter──▶ Place ─────turn─────▶ Turn ──▶ handshake
//!               │     ≤ 2048 of a source    ≤ 64 of a source
//!               ▼     ≤ 8192 of all         ≤ 256 of all
//!            refused
//! ```
//!
//! A source waits for its own turns first, so what it has too much of waits behind itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loden_process::source::Source;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much is let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes at once.
    pub(super) turns: usize,
    /// Of them, of one source.
    pub(super) turns_of_source: usize,
    /// Connections that wait for their turn or have it.
    pub(super) places: usize,
    /// Of them, of one source.
    pub(super) places_of_source: usize,
}

impl Default for Limits {
    /// A handshake takes half a millisecond of CPU, and a client gives up after seconds: a longer queue
    /// would be served in vain.
    fn default() -> Self {
        Self { turns: 256, turns_of_source: 64, places: 8192, places_of_source: 2048 }
    }
}

/// Lets connections in; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    limits: Limits,
    turns: Arc<Semaphore>,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    sources: HashMap<Source, PlacesOfSource>,
}

#[derive(Debug)]
struct PlacesOfSource {
    taken: usize,
    turns: Arc<Semaphore>,
}

/// A connection's place in the queue, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    source: Source,
    turns_of_source: Arc<Semaphore>,
}

/// A connection may begin its handshake, and is in it as long as this lives.
#[derive(Debug)]
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _source: OwnedSemaphorePermit,
    _place: Place,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, turns: Arc::new(Semaphore::new(limits.turns)), places: Arc::default() }
    }

    /// A place for a connection, unless its source or all together have too many.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let source = Source::from(address);
        let mut places = self.places();
        if places.taken >= self.limits.places {
            return None;
        }
        let turns = || Arc::new(Semaphore::new(self.limits.turns_of_source));
        let of_source = places.sources.entry(source);
        let of_source = of_source.or_insert_with(|| PlacesOfSource { taken: 0, turns: turns() });
        if of_source.taken >= self.limits.places_of_source {
            return None;
        }
        of_source.taken += 1;
        let turns_of_source = Arc::clone(&of_source.turns);
        places.taken += 1;
        Some(Place { admission: self.clone(), source, turns_of_source })
    }

    /// A panic elsewhere leaves the counts whole.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits for the connection's turn. `None` never comes: the semaphores are not closed.
    pub(super) async fn turn(self) -> Option<Turn> {
        let source = Arc::clone(&self.turns_of_source).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.admission.turns).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _source: source, _place: self })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.places();
        places.taken -= 1;
        if let Some(of_source) = places.sources.get_mut(&self.source) {
            of_source.taken -= 1;
            if of_source.taken == 0 {
                places.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMITS: Limits = Limits { turns: 3, turns_of_source: 2, places: 6, places_of_source: 4 };

    fn enter(admission: &Admission, address: &str) -> Option<Place> {
        admission.enter(address.parse().unwrap())
    }

    /// The turn, if it is there at once.
    fn turn(place: Place) -> Option<Turn> {
        place.turn().now_or_never().flatten()
    }

    #[test]
    fn a_source_that_floods_leaves_turns_and_places_to_others() {
        let admission = Admission::new(LIMITS);
        let places: Vec<_> = std::iter::from_fn(|| enter(&admission, "192.0.2.1")).collect();
        assert_eq!(places.len(), 4);
        let turns: Vec<_> = places.into_iter().filter_map(turn).collect();
        assert_eq!(turns.len(), 2, "those that wait do not take what is left");
        let other = turn(enter(&admission, "192.0.2.2").unwrap()).expect("others are served at once");
        drop((turns, other));
        assert!(admission.places().sources.is_empty(), "nothing is kept of sources that are gone");
        assert_eq!(admission.places().taken, 0);
    }

    #[tokio::test]
    async fn who_waits_is_next_when_a_turn_ends() {
        let admission = Admission::new(LIMITS);
        let mut turns: Vec<_> =
            (0..2).map(|_| turn(enter(&admission, "192.0.2.1").unwrap()).unwrap()).collect();
        let waiting = tokio::spawn(enter(&admission, "192.0.2.1").unwrap().turn());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        turns.pop();
        assert!(waiting.await.unwrap().is_some());
    }

    #[test]
    fn all_together_have_a_limit_too() {
        let admission = Admission::new(LIMITS);
        let places: Vec<_> =
            (1..=6).map(|host| enter(&admission, &format!("192.0.2.{host}")).unwrap()).collect();
        assert!(enter(&admission, "192.0.2.7").is_none());
        drop(places);
        assert!(enter(&admission, "192.0.2.7").is_some());
    }
}
