//! The Loden control plane: a ledger of networks and leases, and a feed of peers.
//!
//! ```text
//!  connection ─▶ service ─▶ clerk ─▶ ledger::decide ─▶ store ─▶ ledger::apply ─▶ feed ─▶ watch ─▶ connection
//! ```

// They panic when nobody takes what is printed; see `loden_process::lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod adoption;
mod audit;
pub mod clerk;
mod colleagues;
pub mod config;
mod connection;
pub mod expiry;
pub mod feed;
mod gate;
mod held;
pub mod identity;
mod joins;
pub mod knocks;
pub mod ledger;
mod metrics;
pub mod recover;
pub mod registry;
pub mod replicas;
pub mod server;
pub mod service;
pub mod sharing;
pub mod status;
pub mod store;
pub mod transfer;
pub mod watch;
