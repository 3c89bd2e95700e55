//! Times and durations.

use std::time::{Duration, SystemTime};

use crate::InvalidValue;

/// A time on the wire. Times before 1677 or after 2262 do not occur here.
#[must_use]
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

/// A time from the wire.
///
/// # Errors
/// When it is outside of what this host can represent.
pub fn timestamp_from(wire: prost_types::Timestamp) -> Result<SystemTime, InvalidValue> {
    SystemTime::try_from(wire).map_err(|_| InvalidValue::new(wire, "is no valid time"))
}

/// A duration on the wire; longer ones than the wire holds become the longest.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 })
}

/// A duration from the wire.
///
/// # Errors
/// When it is negative or out of range.
pub fn duration_from(wire: prost_types::Duration) -> Result<Duration, InvalidValue> {
    Duration::try_from(wire)
        .map_err(|_| InvalidValue::new(format!("{}s", wire.seconds), "must be a duration of zero or more"))
}
