//! Until when certificates of a CA may be good: it is noted, since settings change and files get copied.
//!
//! ```text
//!  longest-life      how long certificates of the present CA have lived at most
//!  previous.until    by when the last certificate of the CA of before has ended
//! ```

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::rotation::PREVIOUS;
use super::{PkiError, file};

pub(super) const LONGEST: &str = "longest-life";
pub(super) const UNTIL: &str = "previous.until";

/// The present CA makes certificates of this life from now on.
pub(super) fn note(directory: &Path, life: Duration) -> Result<(), PkiError> {
    if longest(directory)?.is_none_or(|noted| noted < life) { begin(directory, life) } else { Ok(()) }
}

/// Notes that the present CA has made its last certificate, before another one takes its place.
pub(super) fn end(directory: &Path, life: Duration, now: SystemTime) -> Result<(), PkiError> {
    let life = longest(directory)?.unwrap_or_default().max(life);
    let until = humantime::format_rfc3339_seconds(now + life + Duration::from_secs(1)).to_string();
    file::write_private(&directory.join(UNTIL), until.as_bytes())
}

/// Another CA is the present one, whose certificates live that long.
pub(super) fn begin(directory: &Path, life: Duration) -> Result<(), PkiError> {
    let text = humantime::format_duration(life).to_string();
    file::write_private(&directory.join(LONGEST), text.as_bytes())
}

/// By when the last certificate of the CA of before has ended, while that is trusted. Of one that somebody has put
/// there, as far as its file tells.
pub(super) fn previous_until(directory: &Path, life: Duration) -> Option<SystemTime> {
    let copied = fs::metadata(directory.join(PREVIOUS)).and_then(|metadata| metadata.modified()).ok()?;
    let noted = file::read_text(&directory.join(UNTIL)).ok().flatten();
    let noted = noted.and_then(|text| humantime::parse_rfc3339(text.trim()).ok());
    let longest = longest(directory).ok().flatten().unwrap_or_default().max(life);
    Some(noted.unwrap_or(copied + longest))
}

fn longest(directory: &Path) -> Result<Option<Duration>, PkiError> {
    let path = directory.join(LONGEST);
    let Some(text) = file::read_text(&path)? else { return Ok(None) };
    let rule = "must be a time such as 24h";
    humantime::parse_duration(text.trim()).map(Some).map_err(|_| PkiError::Content { path, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_longest_life_counts_though_it_was_shortened_and_the_file_was_copied() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        note(directory, 24 * HOUR).unwrap();
        note(directory, HOUR).unwrap();
        assert_eq!(longest(directory).unwrap(), Some(24 * HOUR));
        assert_eq!(previous_until(directory, HOUR), None);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        end(directory, HOUR, now).unwrap();
        begin(directory, HOUR).unwrap();
        fs::write(directory.join(PREVIOUS), "copied later").unwrap();
        assert_eq!(previous_until(directory, HOUR), Some(now + 24 * HOUR + Duration::from_secs(1)));
        fs::remove_file(directory.join(UNTIL)).unwrap();
        assert!(previous_until(directory, HOUR).unwrap() > SystemTime::now(), "somebody has put it there");
        fs::write(directory.join(LONGEST), "soon").unwrap();
        let error = note(directory, HOUR).unwrap_err().to_string();
        assert!(error.ends_with("longest-life: must be a time such as 24h"), "{error}");
    }
}
