//! Whose handshake is next: whoever floods us, from one address or from many, must not keep the others out.
//!
//! ```text
//! accepted ──enter──▶ Place ──▶ ClientHello ──turn──▶ Turn ──▶ the rest of the handshake
//!               │     ≤ 2048 of a source              ≤ 64 of a source
//!               │     ≤ 8192 of all; a balancer's are moved to its client's once that is known
//!               ├─ its source has too many, or most of all ─▶ refused
//!               └─ all together have too many ─▶ the oldest one of the source that has most goes
//! ```
//!
//! A connection that says nothing costs a place and no turn; what a source has too much of waits behind itself.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loden_process::source::Source;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How much is let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes of one source at once.
    pub(super) turns_of_source: usize,
    /// Connections that are not through with theirs.
    pub(super) places: usize,
    /// Of them, of one source.
    pub(super) places_of_source: usize,
}

impl Default for Limits {
    /// A handshake takes half a millisecond of CPU, and a client gives up after seconds: a longer queue
    /// would be served in vain.
    fn default() -> Self {
        Self { turns_of_source: 64, places: 8192, places_of_source: 2048 }
    }
}

/// Lets connections in; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    limits: Limits,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    /// The number of the next one.
    next: u64,
    sources: HashMap<Source, PlacesOfSource>,
}

#[derive(Debug)]
struct PlacesOfSource {
    /// By number, which is by age.
    places: BTreeMap<u64, CancellationToken>,
    turns: Arc<Semaphore>,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    source: Source,
    number: u64,
    /// Somebody else needs the place more.
    pub(super) lost: CancellationToken,
    turns: Arc<Semaphore>,
}

/// A connection's turn, over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::default() }
    }

    /// A place for a connection, unless its source has too many.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        self.enter_among(address, self.limits.places_of_source)
    }

    /// A place for a connection of a balancer, until it says from where that comes: of many clients many may come in
    /// one moment.
    pub(super) fn enter_balancer(&self, address: IpAddr) -> Option<Place> {
        self.enter_among(address, self.limits.places)
    }

    /// A place among so many of its source.
    fn enter_among(&self, address: IpAddr, most: usize) -> Option<Place> {
        let source = Source::from(address);
        let mut places = self.places();
        let own = places.sources.get(&source).map_or(0, |of_source| of_source.places.len());
        if own >= most {
            return None;
        }
        if places.taken >= self.limits.places {
            places.take_one_from_above(own)?;
        }
        let turns_of_source = self.limits.turns_of_source;
        places.taken += 1;
        places.next += 1;
        let (number, lost) = (places.next, CancellationToken::new());
        let of_source = places.sources.entry(source).or_insert_with(|| PlacesOfSource {
            places: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(turns_of_source)),
        });
        of_source.places.insert(number, lost.clone());
        let turns = Arc::clone(&of_source.turns);
        Some(Place { admission: self.clone(), source, number, lost, turns })
    }

    /// A panic elsewhere leaves the table whole.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Has the oldest connection of the source that has most go, if that has more than so many.
    fn take_one_from_above(&mut self, own: usize) -> Option<()> {
        let most = self.sources.iter().max_by_key(|(_, of_source)| of_source.places.len());
        let (source, of_source) = most.filter(|(_, of_source)| of_source.places.len() > own)?;
        let (source, number) = (*source, *of_source.places.keys().next()?);
        self.remove(source, number)?.cancel();
        Some(())
    }

    fn remove(&mut self, source: Source, number: u64) -> Option<CancellationToken> {
        let of_source = self.sources.get_mut(&source)?;
        let place = of_source.places.remove(&number)?;
        self.taken -= 1;
        if of_source.places.is_empty() {
            self.sources.remove(&source);
        }
        Some(place)
    }
}

impl Place {
    /// Gives it back for one among those from another address.
    pub(super) fn moved(self, address: IpAddr) -> Option<Self> {
        let admission = self.admission.clone();
        drop(self);
        admission.enter(address)
    }

    /// Waits for its source's turn. `None` never comes: the semaphore is not closed.
    pub(super) async fn turn(&self) -> Option<Turn> {
        Arc::clone(&self.turns).acquire_owned().await.ok().map(Turn)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who has lost it has none to give back.
        let _ = self.admission.places().remove(self.source, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMITS: Limits = Limits { turns_of_source: 2, places: 6, places_of_source: 4 };

    fn enter(admission: &Admission, address: &str) -> Option<Place> {
        admission.enter(address.parse().unwrap())
    }

    fn all_that_enter(admission: &Admission, address: &str) -> Vec<Place> {
        std::iter::from_fn(|| enter(admission, address)).collect()
    }

    #[test]
    fn a_source_that_floods_leaves_turns_and_places_to_others() {
        let admission = Admission::new(LIMITS);
        let places = all_that_enter(&admission, "192.0.2.1");
        assert_eq!(places.len(), 4);
        let turns: Vec<_> = places.iter().filter_map(|place| place.turn().now_or_never().flatten()).collect();
        assert_eq!(turns.len(), 2, "those that wait take nobody else's");
        let other = enter(&admission, "192.0.2.2").unwrap();
        assert!(other.turn().now_or_never().flatten().is_some(), "others are served at once");
        drop((turns, places, other));
        assert!(admission.places().sources.is_empty(), "nothing is kept of sources that are gone");
        assert_eq!(admission.places().taken, 0);
    }

    #[test]
    fn behind_a_balancer_each_client_has_its_own_limit_and_none_is_kept_of_the_balancers() {
        let admission = Admission::new(LIMITS);
        let [balancer, many, few] =
            ["192.0.2.1", "192.0.2.8", "192.0.2.9"].map(|address| address.parse::<IpAddr>().unwrap());
        let come: Vec<_> = (0..6).map_while(|_| admission.enter_balancer(balancer)).collect();
        assert_eq!(come.len(), 6, "more than one source may have");
        let of_many: Vec<_> = come.into_iter().filter_map(|place| place.moved(many)).collect();
        assert_eq!(of_many.len(), 4);
        let of_few = admission.enter_balancer(balancer).and_then(|place| place.moved(few)).unwrap();
        assert!(!of_few.lost.is_cancelled() && of_many.iter().all(|place| !place.lost.is_cancelled()));
        let sources: Vec<_> = admission.places().sources.keys().copied().collect();
        assert!(!sources.contains(&Source::from(balancer)), "{sources:?}");
        drop((of_many, of_few));
        assert_eq!(admission.places().taken, 0);
    }

    #[tokio::test]
    async fn who_waits_is_next_when_a_turn_ends() {
        let admission = Admission::new(LIMITS);
        let places = all_that_enter(&admission, "192.0.2.1");
        let mut turns: Vec<_> = (0..2).map(|index| places[index].turn().now_or_never().flatten()).collect();
        let mut waiting = Box::pin(places[2].turn());
        assert!(waiting.as_mut().now_or_never().is_none());
        turns.pop();
        assert!(waiting.await.is_some());
    }

    #[test]
    fn when_all_are_taken_the_oldest_of_who_has_most_makes_room_for_who_has_less() {
        let admission = Admission::new(LIMITS);
        let many = all_that_enter(&admission, "192.0.2.1");
        let few = all_that_enter(&admission, "192.0.2.2");
        assert_eq!((many.len(), few.len()), (4, 3), "one of the first was taken");
        assert!(many[0].lost.is_cancelled() && !many[1].lost.is_cancelled());
        let others: Vec<_> =
            (3..=6).map(|host| enter(&admission, &format!("192.0.2.{host}")).unwrap()).collect();
        assert_eq!(admission.places().taken, LIMITS.places);
        assert!(others.iter().all(|other| !other.lost.is_cancelled()), "others have more");
        let lost = |places: &[Place]| places.iter().filter(|place| place.lost.is_cancelled()).count();
        assert_eq!((lost(&many), lost(&few)), (3, 2), "each has one now");
        drop((many, few, others));
        assert_eq!(admission.places().taken, 0);
        assert!(admission.places().sources.is_empty());
    }
}
