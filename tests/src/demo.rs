//! `make demo`: a real network on hosts of this machine, and what it went through.

pub mod backend;
mod compare;
pub mod drawing;
pub mod page;
pub mod report;
mod stage;
pub mod story;
pub mod text;
mod way;
