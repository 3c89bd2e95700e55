//! What a connection has left unread of its answers, and the calls that wait until it has read.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

/// How much a connection may leave unread before its next call waits, in bytes.
pub(crate) const ROOM: usize = 256 << 10;

/// The room for one connection's answers.
#[derive(Debug, Default)]
pub(crate) struct Room {
    unread: AtomicUsize,
    /// Whose turn it is: calls go on in the order in which they came.
    turn: Mutex<()>,
    read: Notify,
}

impl Room {
    /// Waits until there is room for one more answer, of whatever size.
    pub(crate) async fn free(&self) {
        let _turn = self.turn.lock().await;
        while self.unread.load(Ordering::Relaxed) >= ROOM {
            // One that was read meanwhile has left its permit.
            self.read.notified().await;
        }
    }

    /// An answer was made.
    pub(crate) fn fill(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An answer was read.
    pub(crate) fn clear(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.read.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn calls_wait_while_too_much_is_unread_and_go_on_in_order() {
        let room = Room::default();
        assert!(room.free().now_or_never().is_some());
        room.fill(ROOM - 1);
        assert!(room.free().now_or_never().is_some());
        room.fill(1);
        let (mut first, mut second) = (Box::pin(room.free()), Box::pin(room.free()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        room.clear(1);
        assert!(second.as_mut().now_or_never().is_none(), "it is not its turn");
        assert!(first.as_mut().now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_some());
    }

    #[test]
    fn a_call_that_gives_up_does_not_hold_up_the_next_one() {
        let room = Room::default();
        room.fill(2 * ROOM);
        let mut first = Box::pin(room.free());
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(room.free());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        room.clear(ROOM + 1);
        assert!(second.as_mut().now_or_never().is_some());
    }
}
