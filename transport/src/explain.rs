//! What went wrong with a connection, in words for an operator.
//!
//! A refused handshake reaches the caller of an RPC as "transport error"; the
//! reason is somewhere among the error's sources.

use std::error::Error;
use std::iter;

use crate::tls_reason::{tls, tls_reason};
use crate::unreachable::Unreachable;

/// The reason at the bottom of `error`: of a [`tonic::Status`] or of a
/// channel's error.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    if let Some(unreachable) = unreachable(error) {
        return unreachable.to_string();
    }
    if let Some(io) = causes(error).find_map(|cause| cause.downcast_ref().filter(|io| tls(io).is_some())) {
        return tls_reason(io);
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return status.message().to_owned();
    }
    let mut texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// Whether the call failed because no server could be connected to, rather
/// than by a server's answer.
#[must_use]
pub fn is_unreachable(error: &(dyn Error + 'static)) -> bool {
    unreachable(error).is_some()
}

fn unreachable<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Unreachable> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}
