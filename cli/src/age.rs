//! Times for people ("3m ago") and for programs (RFC 3339).

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// RFC 3339, or nothing.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

/// How far `time` is from `now`: "3m ago", "in 23h 59m"; "-" when unset.
pub(crate) fn relative(time: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(time) = time.and_then(|time| SystemTime::try_from(*time).ok()) else {
        return "-".to_owned();
    };
    match (time.duration_since(now), now.duration_since(time)) {
        (Ok(ahead), _) if ahead > Duration::ZERO => format!("in {}", rough(ahead)),
        (_, Ok(past)) => format!("{} ago", rough(past)),
        (_, Err(ahead)) => format!("in {}", rough(ahead.duration())),
    }
}

/// The two largest units, in whole seconds.
pub(crate) fn rough(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: i64| Some(Timestamp { seconds: 1_000_000 + seconds, nanos: 0 });
        assert_eq!(relative(at(0).as_ref(), now), "0s ago");
        assert_eq!(relative(at(-185).as_ref(), now), "3m 5s ago");
        assert_eq!(relative(at(86_399).as_ref(), now), "in 23h 59m");
        assert_eq!(relative(None, now), "-");
        assert_eq!(rfc3339(at(0).as_ref()), Some("1970-01-12T13:46:40Z".to_owned()));
    }
}
