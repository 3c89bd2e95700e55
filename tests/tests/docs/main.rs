//! The documentation says what the programs do.
//!
//! ```text
//!  *.md ──▶ blocks, tables, links ──▶ compared with --help, /metrics, the role table, the Makefile
//! ```

#![cfg(test)]

mod commands;
mod conflist;
mod links;
mod markdown;
mod metrics;
mod program;
mod regressions;
mod roles;
mod settings;
