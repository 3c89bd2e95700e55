//! The feed of one network: its peers as entries, its recent history, and what watchers share.
//!
//! ```text
//!  publish ──▶ entries, history ──(debounced)──▶ bell ──▶ every watcher: pull(cursor)
//!                                                            │ same place, same bytes
//!                                                            ▼
//!                                              snapshot | fold since the cursor | nothing
//! ```
//!
//! Watchers hold a cursor and nothing else. Between two rings all of them go to the same place, so that
//! one fold serves everybody.

mod bell;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use loden_proto::names::{NetworkId, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::debounce::FanOut;
use super::frames::{self, Snapshot};
use super::history::{Before, Fold, History, Step};
use super::shared::Shared;
use super::token::{Point, Token};

/// Folds kept between two rings. More than a few different cursors are rare.
const FOLDS: usize = 32;

/// The feed of one network.
#[derive(Debug)]
pub(crate) struct NetworkFeed {
    id: NetworkId,
    shared: Arc<Shared>,
    state: Mutex<State>,
    bell: watch::Sender<u64>,
}

/// What a feed begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) network: Bytes,
    pub(super) entries: BTreeMap<NodeId, Bytes>,
    pub(super) history: History,
    pub(super) point: Point,
    pub(super) incarnation: u128,
    pub(super) adopting: bool,
}

#[derive(Debug)]
struct State {
    network: Bytes,
    entries: BTreeMap<NodeId, Bytes>,
    history: History,
    /// Where the newest change is.
    last: Point,
    /// Up to where watchers are told, since the bell last rang.
    visible: Point,
    incarnation: u128,
    adopting: bool,
    /// Counts the sets that do not follow from the one before by history.
    generation: u64,
    closed: bool,
    rings: u64,
    fan_out: FanOut,
    /// When the next ring is to be tried.
    scheduled: Option<Instant>,
    /// What newcomers get until the bell rings again.
    snapshot: Option<(Point, Arc<Snapshot>)>,
    /// By the revision of the first change in it.
    folds: Vec<(u64, Arc<Folded>)>,
    heartbeat: Option<(Point, Bytes)>,
}

#[derive(Debug)]
struct Folded {
    fold: Fold,
    frames: Vec<Bytes>,
}

/// A watcher's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    point: Point,
    generation: u64,
    rings: u64,
}

impl Cursor {
    /// Up to where the watcher has been told.
    pub(crate) const fn point(&self) -> Point {
        self.point
    }
}

/// Why a feed has nothing more for a watcher.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// The network is gone.
    NetworkDeleted,
    /// The watching node's own lease is gone.
    LeaseGone,
}

impl NetworkFeed {
    pub(super) fn new(id: NetworkId, shared: Arc<Shared>, beginning: Beginning) -> Self {
        let Beginning { network, entries, history, point, incarnation, adopting } = beginning;
        let state = State {
            network,
            entries,
            history,
            last: point,
            visible: point,
            incarnation,
            adopting,
            generation: 0,
            closed: false,
            rings: 0,
            fan_out: FanOut::default(),
            scheduled: None,
            snapshot: None,
            folds: Vec::new(),
            heartbeat: None,
        };
        Self { id, shared, state: Mutex::new(state), bell: watch::Sender::new(0) }
    }

    /// The revision of the newest change.
    pub(super) fn last_change(&self) -> u64 {
        self.state().last.revision
    }

    /// Rings when there may be something to pull.
    pub(crate) fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    /// Takes over what a batch changed here: a new record of the network, peers with their new entries.
    pub(super) fn publish(
        self: &Arc<Self>,
        point: Point,
        network: Option<Bytes>,
        peers: Vec<(NodeId, Option<Bytes>)>,
    ) {
        let mut state = self.state();
        let network = network.filter(|network| *network != state.network);
        let steps: Vec<_> = peers.into_iter().filter_map(|(node, after)| state.step(node, after)).collect();
        if steps.is_empty() && network.is_none() {
            return;
        }
        if let Some(network) = &network {
            state.network = network.clone();
        }
        state.history.push(point, steps, network);
        state.last = point;
        self.schedule(&mut state);
    }

    /// Puts another set in the place of this one. Everybody gets a snapshot.
    pub(super) fn reset(
        &self,
        point: Point,
        incarnation: u128,
        adopting: bool,
        network: Bytes,
        entries: BTreeMap<NodeId, Bytes>,
    ) {
        let mut state = self.state();
        state.network = network;
        state.entries = entries;
        state.history.restart(point.revision);
        state.last = point;
        state.incarnation = incarnation;
        state.adopting = adopting;
        state.generation += 1;
        self.ring(state);
    }

    /// The network is gone: every watch ends.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.ring(state);
    }

    /// The first messages and the place of a new watcher: what has changed since its token if history
    /// knows it, everything otherwise.
    pub(crate) fn open(
        self: &Arc<Self>,
        resume: Option<Token>,
        viewer: Option<&NodeId>,
        out: &mut VecDeque<Bytes>,
    ) -> Cursor {
        let head = self.shared.head();
        let mut state = self.state();
        state.fan_out.join();
        let known = resume.filter(|token| {
            token.incarnation == state.incarnation && token.point.revision >= state.history.floor()
        });
        let mut cursor = Cursor {
            point: known.map(|token| token.point).unwrap_or_default(),
            generation: state.generation,
            rings: state.rings,
        };
        if known.is_none() {
            self.push_snapshot(&mut state, &mut cursor, head, viewer, out);
            return cursor;
        }
        // A lease that was lost and taken again since the token is no news to its own node.
        let _own_removal = self.push_fold(&mut state, &mut cursor, viewer, out);
        if out.is_empty() {
            self.push_heartbeat(&mut state, &mut cursor, head, out);
        }
        cursor
    }

    /// What there is for a watcher since it last asked.
    pub(crate) fn pull(
        self: &Arc<Self>,
        cursor: &mut Cursor,
        viewer: Option<&NodeId>,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), Ended> {
        let head = self.shared.head();
        let mut state = self.state();
        let behind = state.rings - cursor.rings;
        cursor.rings = state.rings;
        if state.fan_out.took(behind, Instant::now(), self.shared.options.cpu_time) {
            self.schedule(&mut state);
        }
        if state.closed {
            return Err(Ended::NetworkDeleted);
        }
        if cursor.generation != state.generation || cursor.point.revision < state.history.floor() {
            self.push_snapshot(&mut state, cursor, head, viewer, out);
            return Ok(());
        }
        let (before, told) = (cursor.point, out.len());
        self.push_fold(&mut state, cursor, viewer, out)?;
        if cursor.point != before && out.len() == told {
            // Its own change only, or none in the end: it learns that it has everything.
            self.push_heartbeat(&mut state, cursor, head, out);
        }
        Ok(())
    }

    /// A sign of life with the newest place that the watcher has reached.
    pub(crate) fn pull_heartbeat(&self, cursor: &mut Cursor, out: &mut VecDeque<Bytes>) {
        let head = self.shared.head();
        let mut state = self.state();
        if !state.closed && cursor.generation == state.generation {
            self.push_heartbeat(&mut state, cursor, head, out);
        }
    }

    /// A watcher is gone.
    pub(crate) fn leave(self: &Arc<Self>, cursor: &Cursor) {
        let mut state = self.state();
        let behind = state.rings - cursor.rings;
        if state.fan_out.leave(behind, Instant::now(), self.shared.options.cpu_time) {
            self.schedule(&mut state);
        }
    }

    fn push_snapshot(
        &self,
        state: &mut State,
        cursor: &mut Cursor,
        head: Point,
        viewer: Option<&NodeId>,
        out: &mut VecDeque<Bytes>,
    ) {
        let (point, snapshot) = state.snapshot.take().unwrap_or_else(|| {
            // Whatever happened up to `head` is in the entries; the feed itself may be further.
            let point = later(head, state.last);
            let token = self.seal(state, point);
            let snapshot = Snapshot::new(state.entries.iter(), &state.network, state.adopting, &token);
            self.shared.counters.snapshot_encodings.inc();
            (point, Arc::new(snapshot))
        });
        out.extend(snapshot.frames(viewer));
        state.snapshot = Some((point, snapshot));
        cursor.point = point;
        cursor.generation = state.generation;
    }

    fn push_fold(
        &self,
        state: &mut State,
        cursor: &mut Cursor,
        viewer: Option<&NodeId>,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), Ended> {
        let upto = state.visible;
        let Some(first) = state.history.first_after(cursor.point.revision).filter(|r| *r <= upto.revision)
        else {
            return Ok(());
        };
        let known = state.folds.iter().find(|(revision, _)| *revision == first);
        let folded = if let Some((_, folded)) = known {
            Arc::clone(folded)
        } else {
            let folded = Arc::new(self.fold(state, cursor.point.revision));
            if state.folds.len() < FOLDS {
                state.folds.push((first, Arc::clone(&folded)));
            }
            folded
        };
        cursor.point = upto;
        let Folded { fold, frames } = &*folded;
        let Some((viewer, own)) = viewer.and_then(|viewer| fold.peers.get_key_value(viewer)) else {
            out.extend(frames.iter().cloned());
            return Ok(());
        };
        if fold.peers.len() > 1 || fold.network.is_some() {
            let others = fold.peers.iter().filter(|(node, _)| *node != viewer);
            out.extend(self.delta(state, fold.network.as_deref(), others));
        }
        if own.is_some() { Ok(()) } else { Err(Ended::LeaseGone) }
    }

    fn fold(&self, state: &State, after: u64) -> Folded {
        let fold = state.history.fold(after, state.visible.revision);
        let empty = fold.peers.is_empty() && fold.network.is_none();
        let network = fold.network.as_deref();
        let frames = if empty { Vec::new() } else { self.delta(state, network, fold.peers.iter()) };
        Folded { fold, frames }
    }

    fn delta<'a>(
        &self,
        state: &State,
        network: Option<&[u8]>,
        peers: impl Iterator<Item = (&'a NodeId, &'a Option<Bytes>)>,
    ) -> Vec<Bytes> {
        self.shared.counters.delta_encodings.inc();
        let token = self.seal(state, state.visible);
        frames::delta(peers, network, &token)
    }

    fn push_heartbeat(&self, state: &mut State, cursor: &mut Cursor, head: Point, out: &mut VecDeque<Bytes>) {
        if cursor.point.revision >= state.last.revision {
            cursor.point = later(head, cursor.point);
        }
        let point = cursor.point;
        let known = state.heartbeat.take_if(|(at, _)| *at == point);
        let (_, frame) = known.unwrap_or_else(|| {
            let token = self.seal(state, point);
            (point, frames::heartbeat(self.shared.options.heartbeat, state.adopting, &token))
        });
        out.push_back(frame.clone());
        state.heartbeat = Some((point, frame));
    }

    fn seal(&self, state: &State, point: Point) -> Bytes {
        self.shared.key.seal(&self.id, Token { incarnation: state.incarnation, point })
    }

    /// A panic elsewhere must not take the watchers with it: nothing panics between two halves of a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Changes one entry; `None` if it is what it was.
    fn step(&mut self, node: NodeId, after: Option<Bytes>) -> Option<Step> {
        let before = match &after {
            Some(entry) => self.entries.insert(node.clone(), entry.clone()),
            None => self.entries.remove(&node),
        };
        if before == after {
            return None;
        }
        Some(Step { node, before: before.map_or(Before::Absent, Before::Entry), after })
    }
}

fn later(a: Point, b: Point) -> Point {
    if a.revision >= b.revision { a } else { b }
}
