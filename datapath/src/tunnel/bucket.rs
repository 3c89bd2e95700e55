//! A limit on how often something is done.

use std::time::{Duration, Instant};

/// A token comes every so often, and so many are kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    every: Duration,
    /// When it will be full.
    full: Instant,
    depth: Duration,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(every: Duration, most: u32, now: Instant) -> Self {
        Self { every, full: now, depth: every * most }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full = self.full.max(now) + self.every;
        let is_there = full <= now + self.depth;
        if is_there {
            self.full = full;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_kept_and_then_one_at_a_time() {
        let every = Duration::from_millis(10);
        let start = Instant::now();
        let mut bucket = Bucket::new(every, 3, start);
        let taken = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + every / 2), 0);
        assert_eq!(taken(&mut bucket, start + every), 1);
        assert_eq!(taken(&mut bucket, start + every * 3), 2);
        assert_eq!(taken(&mut bucket, start + every * 1000), 3, "no more than are kept");
    }
}
