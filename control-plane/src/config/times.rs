//! How long something takes, as text, and the rules of each.

use std::time::Duration;

use loden_proto::model::NetworkSpec;

pub(super) fn lease_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (NetworkSpec::MIN_LEASE_TTL..=NetworkSpec::MAX_LEASE_TTL).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("must be 10s to 365d".to_owned())
    }
}

/// The CA's own end may be sooner; that is seen when it is read.
pub(super) fn validity(text: &str) -> Result<Duration, String> {
    let time = at_most_a_year(text)?;
    if time >= Duration::from_secs(60) { Ok(time) } else { Err("must be 1m to 365d".to_owned()) }
}

/// Shorter ones end before they can be renewed.
pub(super) fn certificate_validity(text: &str) -> Result<Duration, String> {
    let time = at_most_a_year(text)?;
    if time >= Duration::from_secs(2) { Ok(time) } else { Err("must be 2s to 365d".to_owned()) }
}

pub(super) fn at_most_a_year(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time <= Duration::from_secs(365 * 24 * 3600) {
        Ok(time)
    } else {
        Err("must be at most 365d".to_owned())
    }
}

pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(50)..=Duration::from_secs(24 * 3600)).contains(&time) {
        Ok(time)
    } else {
        Err("must be 50ms to 24h".to_owned())
    }
}
