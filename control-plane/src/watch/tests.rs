//! The contract of the watch: ordered, unique, reliable, atomic, resumable, bookmarked.

pub(crate) mod client;
mod contract;
mod ends;
mod shares;
mod wire;
