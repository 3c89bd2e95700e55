//! Placeholder.

pub mod feed;
pub mod identity;
pub mod store;
pub mod watch;
