//! Placeholder.

pub mod feed;
pub mod identity;
pub mod ledger;
pub mod store;
pub mod watch;
