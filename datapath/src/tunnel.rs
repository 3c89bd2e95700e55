//! The UDP tunnel: inner IP packets behind a small header, in UDP datagrams.
//!
//! ```text
//!  pod ─▶ TUN ─▶ inner: what is it? ─▶ segment: cut ─▶ header + packet, header + packet … ─▶ UDP
//!  pod ◀─ TUN ◀─ merge: one of many ◀─ inner: whose is it? ◀─────── header ◀──────────────── UDP
//! ```
//!
//! All decisions are pure: bytes in, bytes out. [`device`] and [`port`] are the edges, [`send`] and [`receive`] the
//! loops between them, [`engine`] what starts and ends these. The format on the wire is described in `docs/udp-tunnel.md`.

pub mod bucket;
mod bytes;
pub mod checksum;
pub mod control;
pub mod counters;
pub mod device;
pub mod ecn;
pub mod engine;
pub mod fragment;
mod gate;
pub mod gather;
pub mod header;
pub mod held;
pub mod icmp;
pub mod inner;
pub mod limits;
mod looks;
mod loops;
pub mod merge;
pub mod path;
pub mod peers;
pub mod port;
pub mod probe;
pub mod receive;
pub mod said;
pub mod search;
pub mod segment;
pub mod send;
pub mod stop;
#[cfg(test)]
mod testing;
mod told;
pub mod view;
pub mod vnet;
mod wait;

pub use header::Header;
pub use inner::{Inner, Malformed};
pub use merge::Run;
pub use peers::{Peers, Rejected, Remote};
pub use segment::{Cut, Offload};
