//! The node agent: follows a network's peers and programs the kernel.
//!
//! ```text
//!  control plane ──stream──▶ session ──▶ peers ──▶ state on disk ──▶ datapath ──▶ kernel
//!       ▲                                             │                              │
//!       └── lease, endpoint, status ◀── reconcile ◀───┴── start without server ◀─────┘ hints
//! ```
//!
//! Unknown is not empty, and whatever fails, what forwards keeps forwarding.

// They panic when nobody takes what is printed; see `loden_process::lines`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
mod announce;
mod boot;
pub mod channels;
pub mod cleanup;
pub mod config;
pub mod conflist;
mod control;
pub mod descriptors;
mod firewall;
mod follow;
mod give_back;
mod heirs;
pub mod iface;
pub mod introspection;
pub mod join;
pub mod keys;
mod lease;
mod left_behind;
mod metrics;
pub mod peers;
pub mod presence;
pub mod problem;
mod program;
mod published;
mod readiness;
mod reconcile;
mod regular;
pub mod renewal;
mod report;
pub mod session;
pub mod state;
pub mod status;
pub mod subnet_file;
mod tasks;
mod told;
pub mod tunnel_metrics;
mod upkeep;

#[cfg(test)]
pub(crate) mod testing;

/// Who calls, to the control plane.
pub const USER_AGENT: &str = concat!("loden-agent/", env!("CARGO_PKG_VERSION"));

pub use agent::{Agent, AgentConfig, AgentError, Connection};
pub use tasks::Ended;
