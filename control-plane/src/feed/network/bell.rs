//! The bell of a feed: rung at most as often as its watchers can take.

use std::sync::{Arc, MutexGuard};

use tokio::time::Instant;

use super::{NetworkFeed, State};

impl NetworkFeed {
    /// Sees to it that the bell rings as soon as it may.
    pub(super) fn schedule(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        let due = state.fan_out.due(now, self.shared.options.cpu_time);
        if state.last == state.visible {
            return;
        }
        if state.scheduled.is_some_and(|scheduled| scheduled <= due) {
            return;
        }
        state.scheduled = Some(due);
        let feed = Arc::downgrade(self);
        // Never rung from here: the caller is the ledger's follower or a watcher, and waking thousands
        // takes milliseconds.
        tokio::spawn(async move {
            if due > now {
                tokio::time::sleep_until(due).await;
            }
            if let Some(feed) = feed.upgrade() {
                feed.ring_if_due();
            }
        });
    }

    fn ring_if_due(self: &Arc<Self>) {
        let mut state = self.state();
        let now = Instant::now();
        if state.scheduled.is_none_or(|scheduled| scheduled > now) {
            return;
        }
        state.scheduled = None;
        if state.fan_out.due(now, self.shared.options.cpu_time) > now {
            // The watchers are still taking the last one.
            self.schedule(&mut state);
        } else if state.last != state.visible {
            self.ring(state);
        }
    }

    pub(super) fn ring(&self, mut state: MutexGuard<'_, State>) {
        state.visible = state.last;
        state.snapshot = None;
        state.folds.clear();
        state.heartbeat = None;
        state.rings += 1;
        state.fan_out.rang(Instant::now(), self.shared.options.cpu_time);
        let rings = state.rings;
        drop(state);
        self.bell.send_replace(rings);
    }
}
