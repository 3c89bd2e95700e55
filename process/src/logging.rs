//! Log lines on standard error, for people or as JSON.

use std::error::Error;
use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{fmt, registry};

/// The target of lines that tell of security decisions.
pub const AUDIT: &str = "loden::audit";

/// The flags of logging, for `#[command(flatten)]`.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What is logged: a level, or levels per module ("info,loden_agent=debug")
    #[arg(
        long,
        env = "LODEN_LOG",
        value_name = "FILTER",
        default_value = "info",
        value_parser = filter,
        global = true,
        help_heading = "Global options"
    )]
    pub log: String,

    /// How a log line looks
    #[arg(long, env = "LODEN_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        source: ParseError,
    },
    /// Somebody else has set the process's logger already.
    #[error("logging was started twice")]
    Twice(#[source] Box<dyn Error + Send + Sync>),
}

impl LogArgs {
    /// Starts logging for the whole process.
    ///
    /// # Errors
    /// As [`init`].
    pub fn init(&self) -> Result<(), LoggingError> {
        init(&self.log, self.log_format)
    }
}

/// Starts logging to standard error for the whole process. A line that cannot be written, because the disk is
/// full or the reader is gone, is lost, and nothing else is.
///
/// # Errors
/// The filter is not valid, or logging was started before.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let filter =
        targets(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })?;
    // Else an error would be printed to the same place, by a macro that panics when that fails too.
    let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    registry().with(filter).with(lines).try_init().map_err(|error| LoggingError::Twice(error.into()))
}

/// A filter that is known to be valid, as text.
fn filter(text: &str) -> Result<String, ParseError> {
    targets(text).map(|_| text.to_owned())
}

/// What is logged. Security decisions are, unless somebody says otherwise of them by name.
fn targets(text: &str) -> Result<Targets, ParseError> {
    let targets: Targets = text.parse()?;
    let is_named = targets.iter().any(|(target, _)| target == AUDIT);
    Ok(if is_named { targets } else { targets.with_target(AUDIT, LevelFilter::INFO) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;
    use crate::lines;

    #[test]
    fn a_line_that_nobody_takes_ends_nothing() {
        const CHILD: &str = "LODEN_LOGGING_TEST_CHILD";
        if let Ok(format) = std::env::var(CHILD) {
            init("info", LogFormat::from_str(&format, true).unwrap()).unwrap();
            tracing::error!("not written");
            lines::error("nor this");
            return;
        }
        for format in ["text", "json"] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "logging::tests::a_line_that_nobody_takes_ends_nothing"])
                .env(CHILD, format)
                .stderr(File::options().write(true).open("/dev/full").unwrap())
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        }
    }

    #[test]
    fn a_wrong_filter_is_refused_where_it_is_given() {
        assert!(filter("info,loden_agent=debug").is_ok());
        assert!(filter("info,loden_agent=loud").is_err());
    }

    #[test]
    fn security_decisions_are_told_unless_they_are_named() {
        let told = |text: &str, level| targets(text).unwrap().would_enable(AUDIT, &level);
        for text in ["warn", "off", "loden_control_plane=debug"] {
            assert!(told(text, tracing::Level::INFO), "{text}");
        }
        assert!(!told("info,loden::audit=warn", tracing::Level::INFO));
        assert!(told("info,loden::audit=warn", tracing::Level::WARN));
    }
}
