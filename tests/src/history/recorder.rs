//! Writes a history while it happens.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Call, History, Look, Thing};

/// A history that many write at once, by one clock.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    history: Mutex<History>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { begin: Instant::now(), history: Mutex::default() }
    }
}

impl Recorder {
    /// The time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Writes a call down that is over, one way or another.
    pub fn call(&self, call: Call) {
        self.history().calls.push(call);
    }

    /// Writes a list down.
    pub fn look(&self, look: Look) {
        self.history().looks.push(look);
    }

    /// Writes down who is there already.
    pub fn bystander(&self, thing: Thing) {
        self.history().bystanders.insert(thing);
    }

    /// What was written so far.
    #[must_use]
    pub fn so_far(&self) -> History {
        self.history().clone()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Every line is written whole, so a panic elsewhere cannot have torn it.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
