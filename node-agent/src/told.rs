//! What others are told of a network: the control plane in reports, and people on the host by the agent's socket.
//!
//! ```text
//!  Overview ─▶ Told ─┬─▶ ReportStatusRequest
//!                    └─▶ AgentNetwork
//! ```

use loden_proto::convert::{beyond, count, timestamp};
use loden_proto::text::escaped;
use loden_proto::v1;

use crate::status::Overview;

/// Failures that are told; more are counted.
const NAMED: usize = 100;
/// Warnings that are told; more are counted.
const WARNED: usize = 20;

/// As it goes over the wire.
#[derive(Debug)]
pub(crate) struct Told {
    /// Peers that are programmed.
    pub(crate) peers: u32,
    /// Whether the node forwards a whole set, and pods can start.
    pub(crate) ready: bool,
    /// Why it does not. Empty when it does.
    pub(crate) not_ready_reason: String,
    /// Peers that are refused or could not be programmed.
    pub(crate) failures: Vec<v1::PeerFailure>,
    /// How many more there are.
    pub(crate) failures_left_out: u32,
    /// What an operator should know though the node forwards.
    pub(crate) warnings: Vec<String>,
    /// How many more there are.
    pub(crate) warnings_left_out: u32,
}

impl Told {
    pub(crate) fn of(overview: &Overview) -> Self {
        let applied = &overview.applied;
        let unready = overview.unready();
        let failures = applied.failures.iter().take(NAMED).map(|(node, failure)| v1::PeerFailure {
            node: said(node),
            message: said(&failure.message),
            since: Some(timestamp(failure.since)),
        });
        Self {
            peers: count(applied.peers),
            ready: unready.is_none(),
            not_ready_reason: unready.as_deref().map(said).unwrap_or_default(),
            failures: failures.collect(),
            failures_left_out: beyond(applied.failures.len(), NAMED),
            warnings: overview.warnings().take(WARNED).map(|warning| said(warning)).collect(),
            warnings_left_out: beyond(overview.warnings().count(), WARNED),
        }
    }
}

/// What the system, a program or a name has put into words, without control characters.
pub(crate) fn said(text: &str) -> String {
    escaped(text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loden_proto::text;

    use super::*;
    use crate::status::Failure;

    #[test]
    fn no_control_character_is_told() {
        let mut overview = Overview::default();
        let failure = Failure { message: "nft:\nno\t\u{1b}[1m".to_owned(), since: std::time::UNIX_EPOCH };
        Arc::make_mut(&mut overview.applied.failures).insert("b".to_owned(), failure);
        overview.applied.warnings = vec!["one\ntwo".to_owned()];
        overview.applied.unfinished = Some("no\r\ndisk".to_owned());
        let told = Told::of(&overview);
        assert_eq!(told.failures[0].message, r"nft:\nno\t\u{1b}[1m");
        assert_eq!(told.warnings, [r"one\ntwo"]);
        text::check(&told.not_ready_reason).unwrap();
    }

    #[test]
    fn what_is_more_than_is_told_is_counted() {
        assert_eq!(beyond(NAMED, NAMED), 0);
        assert_eq!(beyond(NAMED + 7, NAMED), 7);
        let mut overview = Overview::default();
        overview.applied.warnings = (0..WARNED + 3).map(|number| format!("warning {number}")).collect();
        let told = Told::of(&overview);
        assert_eq!((told.warnings.len(), told.warnings_left_out, told.failures_left_out), (WARNED, 3, 0));
    }
}
