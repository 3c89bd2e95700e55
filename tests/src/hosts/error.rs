//! What could not be done in a lab, with its cause.

use std::fmt;

/// What could not be done, and why. `Debug` prints the whole chain of causes, so that a
/// test's `unwrap()` says what happened.
#[derive(thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    doing: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// `doing` completes the sentence "could not …".
    pub fn new(
        doing: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { doing: format!("could not {doing}"), source: source.into() }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        let mut cause: Option<&dyn std::error::Error> = Some(&*self.source);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// `doing` completes the sentence "could not …".
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T, Error> {
        self.map_err(|source| Error::new(doing(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_every_cause() {
        let refused = std::io::Error::from_raw_os_error(libc::EPERM);
        let inner = Error::new("mount /run/netns/a", refused);
        let outer = Error::new("make host a", inner);
        assert_eq!(
            format!("{outer:?}"),
            "could not make host a: could not mount /run/netns/a: Operation not permitted (os error 1)"
        );
    }
}
