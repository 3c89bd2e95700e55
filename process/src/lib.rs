//! What every Loden process has: settings, logging, operations HTTP, signals.
//!
//! ```text
//! flags > LODEN_… > TOML file > defaults ──settings──▶ the binary's own struct
//! SIGTERM, SIGINT, … ──signals──▶ one future       /livez /readyz /metrics ◀──operations
//! ```
//!
//! Nothing here knows what a network or a lease is.

pub mod completions;
pub mod exit;
pub mod logging;
pub mod operations;
pub mod settings;
pub mod signals;
pub mod source;
