//! Counts on the wire.

/// How many there are; more than the wire holds become the most that it does.
#[must_use]
pub fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How many of `count` are more than `most`.
#[must_use]
pub fn beyond(count: usize, most: usize) -> u32 {
    self::count(count.saturating_sub(most))
}
