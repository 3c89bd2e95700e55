//! Real traffic between namespaces, and what became of it.
//!
//! ```text
//!  Ping      echo requests at a fixed pace ──▶ PingReport: each request's fate, with marks on the timeline
//!  Transfer  TCP streams, as fast as they go ──▶ Throughput
//!  Capture   frames of one link, as they are on the wire
//! ```
//! Each runs on threads of its own inside the namespace, so that a busy runtime does not
//! disturb what is measured.

mod backlog;
mod capture;
mod echo;
mod ping;
mod report;
mod transfer;

pub use capture::{Capture, Direction, Frame};
pub use ping::{Ping, RunningPing};
pub use report::{Echo, Fate, Mark, PingReport};
pub use transfer::{Amount, RunningTransfer, Throughput, Transfer};
