//! Knocks: clients of another CA of this very cluster, who tell of a life that was lost with its CA.
//!
//! ```text
//!  CA or key of tokens made ─▶ note beside it ── a lease is given, nobody knocks ──▶ removed, for ever
//!                                 │
//!                                 ▼ meanwhile they count
//!  handshake that ends for another CA's sake ─▶ knock ─┬─ within 5 min ─▶ no new slot
//!                                                      └─ then a claim or a token ─▶ adoption
//! ```
//!
//! When the whole state directory was lost, old agents cannot speak with the new life, and only their handshakes
//! tell of them. Agents dial every five seconds at most, so those that run have knocked when settling ends, and
//! until then nobody new gets a slot. A cluster that is really new hears nobody and waits for nothing else.
//! Tokens of another key tell the same; later they would only tell that somebody has made one up.
//!
//! Several control planes share the note with the CA, and tell each other what they have heard: each holds back what one
//! of them would, and what one has seen prove itself has proved itself for all (`sharing.rs`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ledger::Knocked;
use crate::replicas::{HeardKnock, Others};

/// For how long a knock counts. An agent that runs knocks every few seconds; this outlives the restart of its
/// host as well, and is no long wait once the last stray agent was stopped.
const COUNTS: Duration = Duration::from_secs(5 * 60);
/// Most addresses that are told apart; nobody has to prove who he is to knock.
const MOST: usize = 4096;

/// Who has knocked lately. Pure.
#[derive(Debug, Default)]
struct Tally {
    hosts: HashMap<IpAddr, Instant>,
    last: Option<(SocketAddr, Instant)>,
}

impl Tally {
    /// Somebody knocks.
    fn knock(&mut self, from: SocketAddr, now: Instant) {
        self.last = Some((from, now));
        let host = from.ip().to_canonical();
        if self.hosts.len() >= MOST && !self.hosts.contains_key(&host) {
            self.hosts.retain(|_, at| counts(*at, now));
        }
        if self.hosts.len() < MOST || self.hosts.contains_key(&host) {
            self.hosts.insert(host, now);
        }
    }

    /// What has been heard, while it counts.
    fn heard(&self, now: Instant) -> Option<Knocked> {
        let (last, at) = self.last.filter(|(_, at)| counts(*at, now))?;
        let ago = now.saturating_duration_since(at);
        let hosts = self.hosts.values().filter(|at| counts(**at, now)).count();
        Some(Knocked { last, ago, hosts, remaining: COUNTS - ago })
    }
}

fn counts(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < COUNTS
}

/// What is known when several have heard knocks: some hosts knock at each of them, so they are not added up. Pure.
fn together(heard: impl Iterator<Item = Knocked>) -> Option<Knocked> {
    heard.reduce(|one, other| {
        let hosts = one.hosts.max(other.hosts);
        let latest = if other.ago < one.ago { other } else { one };
        Knocked { hosts, ..latest }
    })
}

/// What another control plane has heard, while it counts.
fn elsewhere(heard: &HeardKnock) -> Option<Knocked> {
    let ago = Duration::from_secs(heard.seconds_ago);
    let remaining = COUNTS.checked_sub(ago).filter(|remaining| !remaining.is_zero())?;
    Some(Knocked { last: heard.last, ago, hosts: heard.hosts, remaining })
}

/// Listens for knocks while they count; cheap to clone. By default they do not.
#[derive(Clone, Debug, Default)]
pub struct Knocks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Where it is noted that they count; none when they do not.
    note: Option<PathBuf>,
    tally: Tally,
    /// The other control planes, who hear some as well.
    others: Option<Others>,
}

impl Knocks {
    /// Knocks count as long as this note is there.
    #[must_use]
    pub fn noted(note: PathBuf) -> Self {
        let note = Some(note).filter(|note| note.exists());
        let state = Mutex::new(State { note, ..State::default() });
        Self(Arc::new(Inner { state, ended: Notify::new() }))
    }

    /// Heeds what these others have heard as well.
    #[must_use]
    pub fn among(self, others: Others) -> Self {
        self.state().others = Some(others);
        self
    }

    /// Whether they count.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        self.state().note.is_some()
    }

    /// Somebody of another CA of this cluster was at the door.
    pub fn knock(&self, from: SocketAddr, now: Instant) {
        let mut state = self.state();
        if state.note.is_none() {
            return;
        }
        let begins = state.tally.heard(now).is_none();
        state.tally.knock(from, now);
        let heard = state.tally.heard(now);
        drop(state);
        if let Some(heard) = heard.filter(|_| begins) {
            tracing::warn!("{}", heard.consequence());
        }
    }

    /// What has been heard, here and by the others, while it counts.
    #[must_use]
    pub fn heard(&self, now: Instant) -> Option<Knocked> {
        let state = self.state();
        state.note.as_ref()?;
        let others = state.others.as_ref().map(|others| others.borrow().clone()).unwrap_or_default();
        let theirs = others.iter().filter_map(|other| elsewhere(other.note.knocked.as_ref()?));
        together(state.tally.heard(now).into_iter().chain(theirs))
    }

    /// What has been heard here, for the others.
    #[must_use]
    pub fn told(&self, now: Instant) -> Option<HeardKnock> {
        let state = self.state();
        state.note.as_ref()?;
        let Knocked { last, ago, hosts, .. } = state.tally.heard(now)?;
        Some(HeardKnock { last, seconds_ago: ago.as_secs(), hosts })
    }

    /// Waits until they count no more; for one at a time.
    pub async fn ended(&self) {
        self.0.ended.notified().await;
    }

    /// They count no more, also after a restart.
    pub fn end(&self) {
        let Some(note) = self.state().note.take() else { return };
        self.0.ended.notify_one();
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The next start finds a lease and tries again.
                tracing::warn!(note = %note.display(), %error, "the note of a new CA cannot be removed");
            }
            _ => {}
        }
    }

    /// A panic elsewhere leaves the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::replicas::{Note, Replica};

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_knock_counts_for_five_minutes_and_each_one_anew() {
        let (mut tally, begin) = (Tally::default(), Instant::now());
        assert_eq!(tally.heard(begin), None);
        tally.knock(address("192.0.2.1:1000"), begin);
        tally.knock(address("192.0.2.2:2000"), begin + Duration::from_secs(60));
        let heard = |tally: &Tally, seconds| tally.heard(begin + Duration::from_secs(seconds));
        let both = Knocked {
            last: address("192.0.2.2:2000"),
            ago: Duration::from_secs(2),
            hosts: 2,
            remaining: Duration::from_secs(298),
        };
        assert_eq!(heard(&tally, 62), Some(both));
        assert_eq!(heard(&tally, 300).map(|heard| heard.hosts), Some(1), "the first one is silent");
        assert_eq!(heard(&tally, 360), None);
        tally.knock(address("192.0.2.1:1001"), begin + Duration::from_secs(400));
        assert_eq!(heard(&tally, 401).map(|heard| (heard.hosts, heard.last.port())), Some((1, 1001)));
    }

    #[test]
    fn a_host_is_counted_once_and_a_flood_is_bounded() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        tally.knock(address("192.0.2.1:1000"), now);
        tally.knock(address("[::ffff:192.0.2.1]:1001"), now);
        assert_eq!(tally.heard(now).map(|heard| heard.hosts), Some(1));
        for number in 0..2 * u32::try_from(MOST).unwrap() {
            tally.knock(SocketAddr::from((number.to_be_bytes(), 1)), now);
        }
        assert_eq!(tally.heard(now).map(|heard| heard.hosts), Some(MOST));
        let later = now + COUNTS;
        tally.knock(address("198.51.100.1:1"), later);
        assert_eq!(tally.heard(later).map(|heard| heard.hosts), Some(1), "those before have made room");
    }

    #[test]
    fn what_another_control_plane_has_heard_counts_here_as_long_as_anything_does() {
        let directory = tempfile::tempdir().unwrap();
        let (note, now) = (directory.path().join("note"), Instant::now());
        fs::write(&note, "").unwrap();
        let (tell, others) = watch::channel(Arc::default());
        let knocks = Knocks::noted(note).among(others);
        assert_eq!((knocks.heard(now), knocks.told(now)), (None, None));
        let says = |host: &str, seconds_ago, hosts| {
            let knocked = Some(HeardKnock { last: address(host), seconds_ago, hosts });
            Replica { name: host.to_owned(), note: Note { knocked, ..Note::default() } }
        };
        tell.send_replace(Arc::from([says("192.0.2.1:1", 300, 9)]));
        assert_eq!(knocks.heard(now), None, "that is too long ago");
        tell.send_replace(Arc::from([says("192.0.2.1:1", 7, 3), says("192.0.2.2:1", 2, 1)]));
        let theirs = Knocked {
            last: address("192.0.2.2:1"),
            ago: Duration::from_secs(2),
            hosts: 3,
            remaining: Duration::from_secs(298),
        };
        assert_eq!(knocks.heard(now), Some(theirs));
        assert_eq!(knocks.told(now), None, "what they say is not told to them again");
        knocks.knock(address("192.0.2.3:1"), now);
        assert_eq!(knocks.heard(now).map(|heard| heard.last), Some(address("192.0.2.3:1")));
        assert_eq!(knocks.told(now).map(|told| (told.seconds_ago, told.hosts)), Some((0, 1)));
        knocks.end();
        assert_eq!((knocks.heard(now), knocks.told(now)), (None, None));
    }

    #[test]
    fn knocks_count_while_the_note_is_there_and_never_again() {
        let directory = tempfile::tempdir().unwrap();
        let (note, now) = (directory.path().join("note"), Instant::now());
        let none = Knocks::noted(note.clone());
        none.knock(address("192.0.2.1:1000"), now);
        assert!(!none.is_counting() && none.heard(now).is_none());

        fs::write(&note, "").unwrap();
        let knocks = Knocks::noted(note.clone());
        knocks.knock(address("192.0.2.1:1000"), now);
        assert!(knocks.is_counting() && knocks.heard(now).is_some());
        knocks.clone().end();
        assert!(!knocks.is_counting() && knocks.heard(now).is_none());
        assert!(!Knocks::noted(note).is_counting(), "also after a restart");
    }
}
