//! What the feeds of all networks share: key, options, counters, and where the store is.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use loden_proto::names::{NetworkId, NodeId};
use prometheus_client::metrics::counter::Counter;

use super::debounce::CpuTime;
use super::entry;
use super::history::HistoryLimits;
use super::token::{Point, Token, TokenKey};
use super::verdict::{Brought, Incarnation, TokenVerdict, judge};
use super::window::Window;
use crate::knocks::Knocks;
use crate::ledger::PeerChange;

/// How feeds behave.
#[derive(Clone, Copy, Debug)]
pub struct FeedOptions {
    /// Every watch carries a sign of life this often.
    pub heartbeat: Duration,
    /// How much history each network keeps.
    pub history: HistoryLimits,
    /// CPU time that this process has used; fan-outs are paced by it.
    pub cpu_time: CpuTime,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(3),
            history: HistoryLimits::default(),
            cpu_time: process_cpu_time,
        }
    }
}

/// What feeds have encoded. Each is shared by all watchers at the same place.
#[derive(Clone, Debug, Default)]
pub struct FeedCounters {
    /// Peers; one per change and one per peer at start.
    pub entry_encodings: Counter,
    /// Whole sets.
    pub snapshot_encodings: Counter,
    /// Deltas, also those that are put together for one watcher alone.
    pub delta_encodings: Counter,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) key: TokenKey,
    /// They count as long as the key is unproven.
    knocks: Knocks,
    pub(super) options: FeedOptions,
    pub(super) counters: FeedCounters,
    pub(super) incarnation: RwLock<Incarnation>,
    window: Mutex<Window>,
    head: Mutex<Point>,
}

impl Shared {
    pub(super) fn new(key: TokenKey, knocks: Knocks, options: FeedOptions) -> Self {
        Self {
            key,
            knocks,
            options,
            counters: FeedCounters::default(),
            incarnation: RwLock::default(),
            window: Mutex::new(Window::new(Point::default())),
            head: Mutex::default(),
        }
    }

    /// The newest point that every feed has reached.
    pub(super) fn head(&self) -> Point {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every feed has reached `point`.
    pub(super) fn reached(&self, point: Point) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = point;
    }

    /// Makes a point known before any token can name it.
    pub(super) fn announce(&self, point: Point) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).push(point);
    }

    pub(super) fn restart(&self, window: Window) {
        self.reached(window.newest());
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
    }

    /// A change of a peer, encoded; `None` is gone.
    pub(super) fn encoded(&self, change: &PeerChange) -> (NodeId, Option<Bytes>) {
        match change {
            PeerChange::Upsert(peer) => {
                self.counters.entry_encodings.inc();
                (peer.node.clone(), Some(entry::peer(peer)))
            }
            PeerChange::Removed(node) => (node.clone(), None),
        }
    }

    pub(super) fn judge(&self, network: &NetworkId, token: &[u8]) -> TokenVerdict {
        let token = match (self.key.open(network, token), Token::unproven(token)) {
            (Some(token), _) => Brought::Ours(token),
            (None, Some(token)) if self.knocks.is_counting() => Brought::Unproven(token),
            (None, _) => Brought::Nothing,
        };
        let incarnation = self.incarnation.read().unwrap_or_else(PoisonError::into_inner);
        judge(token, &incarnation, |point| {
            self.window.lock().unwrap_or_else(PoisonError::into_inner).standing(point)
        })
    }
}

/// User and system time of this process (`getrusage(2)`); zero if the kernel does not tell.
fn process_cpu_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;

    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let used = usage.user_time() + usage.system_time();
        Duration::from_micros(used.num_microseconds().try_into().unwrap_or(0))
    })
}
