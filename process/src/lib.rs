//! What every Loden process has: settings, logging, operations HTTP, signals.
//!
//! ```text
//! flags > LODEN_… > TOML file > defaults ──settings──▶ the binary's own struct
//! SIGTERM, SIGINT, … ──signals──▶ one future       /livez /readyz /metrics ◀──operations
//! ```
//!
//! Nothing here knows what a network or a lease is.

// They panic when nobody takes what is printed; see `lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod completions;
pub mod exit;
pub mod lines;
pub mod logging;
pub mod operations;
pub mod settings;
pub mod signals;
pub mod source;
