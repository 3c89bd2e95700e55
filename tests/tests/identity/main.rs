//! From a token to a certificate that renews itself, and out again.

#![cfg(test)]

mod expired;
mod joining;
mod redial;
mod rotation;

use std::time::Duration;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);
