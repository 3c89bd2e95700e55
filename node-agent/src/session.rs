//! One watch of a network's peers, as a state machine without socket or clock.
//!
//! ```text
//!            deadline                 opened               first whole message
//!  Waiting ───────────▶ Connecting ──────────▶ Open ────────────────────────────┐
//!     ▲                     │ 3 s               │ silence of 3 intervals        │
//!     └── back-off, hint ◀──┴───── ended ◀──────┴── broken protocol      back-off starts anew
//!                           ▲    another connection │
//!                           └───────────────────────┘
//! ```
//!
//! Pages are collected and handed on with the last one. The end of a stream
//! says nothing about peers: no effect takes one away.

use std::time::Duration;

use loden_proto::model::Network;
use tokio::time::Instant;

use crate::peers::{Delta, Refused, Snapshot, Token, Update};
use loden_proto::model::Peer;

/// How long to wait for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Upper bound of the first wait after a failure.
    pub first_wait: Duration,
    /// Upper bound of every wait.
    pub longest_wait: Duration,
    /// For the server to answer an open.
    pub connect: Duration,
    /// Between heartbeats until the server announces its own.
    pub interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(5),
            connect: Duration::from_secs(3),
            interval: Duration::from_secs(3),
        }
    }
}

/// Heartbeats that may be missed before a connection counts as dead.
const MISSED: u32 = 3;

/// A message of the stream, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Part of the whole set; `end` on its last page.
    Snapshot {
        /// Peers of this page.
        peers: Vec<Peer>,
        /// Peers of this page that could not be read.
        refused: Vec<Refused>,
        /// On the last page.
        end: Option<SnapshotEnd>,
    },
    /// Part of a change; `last` is its last page.
    Delta {
        /// This page's part.
        part: Delta,
        /// Whether the change is complete.
        last: bool,
    },
    /// A sign of life.
    Heartbeat {
        /// The next one follows within this time; none: as before.
        interval: Option<Duration>,
        /// As in a snapshot.
        adopting: bool,
        /// Where to resume.
        token: Option<Token>,
    },
}

/// What the last page of a snapshot carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotEnd {
    /// The network as it is.
    pub network: Box<Network>,
    /// The set is not whole.
    pub adopting: bool,
    /// Where to resume.
    pub token: Token,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// The server accepted the watch.
    Opened,
    /// A message came.
    Message(Message),
    /// The open was refused or the stream is over; with the server's wish
    /// when to come back.
    Ended(Option<Duration>),
    /// There is another connection, and the one of before goes.
    Moved,
    /// The time of [`Session::deadline`] has come.
    DeadlinePassed,
}

/// What to do, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Open the watch.
    Open {
        /// Empty: everything.
        resume: Option<Token>,
        /// What was told last, where nothing can be resumed: a server that has
        /// lost its store since learns it by this.
        seen: Option<Token>,
    },
    /// Drop the stream or the attempt to open it.
    Close(Reason),
    /// Take a whole update in.
    Apply(Update),
    /// The set that was applied last is the server's current one.
    Current {
        /// Whether the server is collecting leases.
        adopting: bool,
        /// Where to resume, when it moved without a change of the set.
        token: Option<Token>,
    },
}

/// Why a stream is dropped from our side.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// The open was not answered.
    #[error("the server did not answer in time")]
    NoAnswer,
    /// No message for three intervals.
    #[error("nothing was heard for three heartbeat intervals")]
    Silence,
    /// A delta without a set that it could change.
    #[error("the server sent a change before the peers that it changes")]
    DeltaBeforeSnapshot,
    /// Another kind of message before the last page.
    #[error("the server broke off before the last page")]
    MissingPage,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Connecting,
    Open(Pages),
}

#[derive(Debug, Default)]
enum Pages {
    #[default]
    None,
    Snapshot(Vec<Peer>, Vec<Refused>),
    Delta(Box<Delta>),
}

/// One watch, opened again and again.
#[derive(Debug)]
pub struct Session {
    timing: Timing,
    phase: Phase,
    deadline: Instant,
    /// Failures since the last whole message. Who waits as the server has asked has not failed.
    failures: u32,
    interval: Duration,
    token: Option<Token>,
    /// Whether the server holds back part of the set; then nothing is resumed.
    adopting: bool,
}

impl Session {
    /// A watch that opens at once, from where a kept set was left.
    #[must_use]
    pub fn new(timing: Timing, resume: Option<Token>, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting,
            deadline: now,
            failures: 0,
            interval: timing.interval,
            token: resume,
            adopting: false,
            timing,
        }
    }

    /// When [`Input::DeadlinePassed`] is due.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether a stream is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Opens at once instead of waiting, when it is waiting.
    pub fn hasten(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Waiting) {
            self.deadline = now;
        }
    }

    /// Takes in what happened; `random` is uniform in 0..1.
    pub fn handle(&mut self, input: Input, now: Instant, random: f64) -> Vec<Effect> {
        match (input, &mut self.phase) {
            (Input::DeadlinePassed, _) if now < self.deadline => Vec::new(),
            (Input::DeadlinePassed, Phase::Waiting) | (Input::Moved, Phase::Connecting | Phase::Open(_)) => {
                vec![self.open(now)]
            }
            // Its time comes.
            (Input::Moved, Phase::Waiting) => Vec::new(),
            (Input::DeadlinePassed, Phase::Connecting) => self.close(Reason::NoAnswer, now, random),
            (Input::DeadlinePassed, Phase::Open(_)) => self.close(Reason::Silence, now, random),
            (Input::Opened, Phase::Connecting) => {
                self.phase = Phase::Open(Pages::None);
                self.heard(now);
                Vec::new()
            }
            (Input::Message(message), Phase::Open(pages)) => {
                let pages = std::mem::take(pages);
                self.heard(now);
                match self.collect(pages, message) {
                    Ok((pages, effects)) => {
                        self.phase = Phase::Open(pages);
                        if !effects.is_empty() {
                            self.failures = 0;
                        }
                        self.heard(now);
                        effects
                    }
                    Err(reason) => self.close(reason, now, random),
                }
            }
            (Input::Ended(hint), Phase::Connecting | Phase::Open(_)) => {
                self.wait(hint, now, random);
                Vec::new()
            }
            // Late news of a stream that was dropped.
            (Input::Opened | Input::Message(_) | Input::Ended(_), _) => Vec::new(),
        }
    }

    fn open(&mut self, now: Instant) -> Effect {
        self.phase = Phase::Connecting;
        self.deadline = now + self.timing.connect;
        let (resume, seen) =
            if self.adopting { (None, self.token.clone()) } else { (self.token.clone(), None) };
        Effect::Open { resume, seen }
    }

    fn collect(&mut self, pages: Pages, message: Message) -> Result<(Pages, Vec<Effect>), Reason> {
        match (pages, message) {
            (pages @ (Pages::None | Pages::Snapshot(..)), Message::Snapshot { peers, refused, end }) => {
                let (mut all, mut bad) = match pages {
                    Pages::Snapshot(all, bad) => (all, bad),
                    _ => Default::default(),
                };
                all.extend(peers);
                bad.extend(refused);
                let Some(SnapshotEnd { network, adopting, token }) = end else {
                    return Ok((Pages::Snapshot(all, bad), Vec::new()));
                };
                self.adopting = adopting;
                self.token = Some(token.clone());
                let snapshot = Snapshot { peers: all, refused: bad, network, adopting, token };
                Ok((
                    Pages::None,
                    vec![
                        Effect::Apply(Update::Snapshot(snapshot)),
                        Effect::Current { adopting, token: None },
                    ],
                ))
            }
            (pages @ (Pages::None | Pages::Delta(_)), Message::Delta { part, last }) => {
                if self.token.is_none() {
                    return Err(Reason::DeltaBeforeSnapshot);
                }
                let whole = match pages {
                    Pages::Delta(before) => joined(*before, part),
                    _ => part,
                };
                if !last {
                    return Ok((Pages::Delta(Box::new(whole)), Vec::new()));
                }
                if let Some(token) = &whole.token {
                    self.token = Some(token.clone());
                }
                let adopting = self.adopting;
                let current = Effect::Current { adopting, token: None };
                Ok((Pages::None, vec![Effect::Apply(Update::Delta(whole)), current]))
            }
            (Pages::None, Message::Heartbeat { interval, adopting, token }) => {
                if let Some(interval) = interval.filter(|interval| !interval.is_zero()) {
                    self.interval = interval;
                }
                // A set that was collected while adopting is not made whole by
                // a heartbeat: a snapshot follows.
                self.adopting |= adopting;
                let token = token.filter(|token| self.token.as_ref().is_some_and(|known| known != token));
                if let Some(token) = &token {
                    self.token = Some(token.clone());
                }
                Ok((Pages::None, vec![Effect::Current { adopting, token }]))
            }
            _ => Err(Reason::MissingPage),
        }
    }

    fn heard(&mut self, now: Instant) {
        self.deadline = now + self.interval * MISSED;
    }

    fn close(&mut self, reason: Reason, now: Instant, random: f64) -> Vec<Effect> {
        self.wait(None, now, random);
        vec![Effect::Close(reason)]
    }

    fn wait(&mut self, hint: Option<Duration>, now: Instant, random: f64) {
        self.phase = Phase::Waiting;
        self.deadline = now + backoff(&self.timing, self.failures, hint, random);
        self.failures = self.failures.saturating_add(u32::from(hint.is_none()));
    }
}

/// How long to wait after so many failures: full jitter, or the server's hint
/// and up to a quarter more, so that not everybody returns in one moment.
#[must_use]
pub fn backoff(timing: &Timing, failures: u32, hint: Option<Duration>, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    match hint {
        Some(hint) => hint + hint.mul_f64(random / 4.0),
        None => {
            let doubled = timing.first_wait.saturating_mul(1 << failures.min(16));
            doubled.min(timing.longest_wait).mul_f64(random)
        }
    }
}

fn joined(mut whole: Delta, part: Delta) -> Delta {
    whole.upserts.extend(part.upserts);
    whole.refused.extend(part.refused);
    whole.removed.extend(part.removed);
    Delta { network: part.network.or(whole.network), token: part.token.or(whole.token), ..whole }
}

#[cfg(test)]
mod tests;
