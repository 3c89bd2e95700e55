//! Placeholder.

pub mod adoption;
pub mod clerk;
pub mod expiry;
pub mod feed;
pub mod identity;
pub mod ledger;
pub mod store;
pub mod watch;
