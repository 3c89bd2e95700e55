//! Who tries to get a lease and gets none, and why.
//!
//! ```text
//!  AcquireLease ─┬─ granted ──▶ forgotten
//!                └─ refused ──▶ the last refusal ─────────┐
//!  ReportStatus without a lease ──▶ why it is not ready ──┴──▶ NodeService, ClusterService, metrics
//! ```
//!
//! Of each node and network the last word is kept, for a minute after the node has tried (longer when it was
//! told to wait longer): whoever still tries is there, and whoever is gone or has a lease is not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use loden_proto::convert::timestamp;
use loden_proto::model::LeaseName;
use loden_proto::names::{self, NetworkId, NodeId};
use loden_proto::reason::Reason;
use loden_proto::{reason, v1};
use tonic::{Code, Status};

use super::cut;

/// How long a node that does not try any more is shown: it tries again every few seconds.
pub(super) const SHOWN: Duration = Duration::from_secs(60);
/// Networks of one node that are kept; that of the oldest sign goes.
const NETWORKS: usize = 16;
/// Nodes that are kept; of more nothing is known.
const NODES: usize = 50_000;

/// All nodes' attempts.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    of: BTreeMap<NodeId, BTreeMap<NetworkId, Attempt>>,
    /// When those that are over were last removed.
    swept: Option<SystemTime>,
}

/// A node's attempt to be part of a network.
#[derive(Debug, Default)]
struct Attempt {
    refusal: Option<Refusal>,
    said: Option<Said>,
}

/// Why the control plane did not give it a lease.
#[derive(Debug)]
struct Refusal {
    code: Code,
    reason: String,
    message: String,
    from: SocketAddr,
    /// Since when it is refused with this code and reason.
    since: SystemTime,
    at: SystemTime,
    /// How long it is shown when nothing follows.
    shown: Duration,
}

/// Why the node is not ready, in its own words.
#[derive(Debug)]
struct Said {
    why: String,
    at: SystemTime,
}

/// How many nodes get no lease.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unserved {
    /// They are refused, or do not get as far as asking.
    pub(crate) refused: usize,
    /// They only have to wait, in each of their networks.
    pub(crate) waiting: usize,
}

impl Attempts {
    /// Keeps that a node was refused a lease.
    pub(super) fn refused(&mut self, name: &LeaseName, status: &Status, from: SocketAddr, now: SystemTime) {
        let Some(attempt) = self.attempt(name, now) else { return };
        let (code, reason) = (status.code(), reason::of(status).unwrap_or_default());
        let same = attempt
            .refusal
            .as_ref()
            .filter(|last| last.code == code && last.reason == reason && is_shown(last.at, last.shown, now));
        let since = same.map_or(now, |last| last.since);
        // An agent adds up to a quarter to what it is told.
        let wait = reason::retry_after(status).unwrap_or_default().mul_f64(1.25);
        let (message, shown) = (cut(status.message()), SHOWN + wait);
        attempt.refusal = Some(Refusal { code, reason, message, from, since, at: now, shown });
    }

    /// Keeps why a node without a lease says that it is not ready.
    pub(super) fn said(&mut self, name: &LeaseName, why: &str, now: SystemTime) {
        if let Some(attempt) = self.attempt(name, now) {
            attempt.said = Some(Said { why: cut(why), at: now });
        }
    }

    /// Forgets a node that has its lease.
    pub(super) fn granted(&mut self, name: &LeaseName) {
        if let Some(networks) = self.of.get_mut(&name.node) {
            networks.remove(&name.network);
            if networks.is_empty() {
                self.of.remove(&name.node);
            }
        }
    }

    /// The nodes that try.
    pub(super) fn nodes(&self, now: SystemTime) -> impl Iterator<Item = &NodeId> {
        self.of
            .iter()
            .filter(move |(_, networks)| networks.values().any(|of| of.is_shown(now)))
            .map(|(node, _)| node)
    }

    /// How many nodes get no lease.
    pub(super) fn unserved(&self, now: SystemTime) -> Unserved {
        let mut unserved = Unserved::default();
        for networks in self.of.values() {
            let mut shown = networks.values().filter(|of| of.is_shown(now)).peekable();
            if shown.peek().is_none() {
                continue;
            }
            if shown.all(|of| of.refusal(now).is_some_and(Refusal::is_wait)) {
                unserved.waiting += 1;
            } else {
                unserved.refused += 1;
            }
        }
        unserved
    }

    /// Since when a node tries.
    pub(super) fn since(&self, node: &NodeId, now: SystemTime) -> Option<SystemTime> {
        let shown = self.of.get(node)?.values().filter(|of| of.is_shown(now));
        let since = shown.filter_map(|of| {
            of.refusal(now).map(|refusal| refusal.since).or_else(|| of.said.as_ref().map(|said| said.at))
        });
        since.min()
    }

    /// Adds to what is shown of a node's networks: to those with a lease why the node was refused, and those
    /// without one.
    pub(super) fn show(&self, node: &NodeId, networks: &mut Vec<v1::NodeNetwork>, now: SystemTime) {
        let attempts = self.of.get(node).into_iter().flatten();
        for (network, attempt) in attempts.filter(|(_, attempt)| attempt.is_shown(now)) {
            let (name, refusal) = (names::network(network), attempt.refusal(now).map(Refusal::view));
            if let Some(leased) = networks.iter_mut().find(|of| of.network == name) {
                leased.refusal = refusal;
                continue;
            }
            let said = attempt.said(now);
            networks.push(v1::NodeNetwork {
                network: name,
                refusal,
                not_ready_reason: said.map(|said| said.why.clone()).unwrap_or_default(),
                report_time: said.map(|said| timestamp(said.at)),
                ..Default::default()
            });
        }
        networks.sort_by(|a, b| a.network.cmp(&b.network));
    }

    /// The attempt of a node in a network, a new one if there is room.
    fn attempt(&mut self, name: &LeaseName, now: SystemTime) -> Option<&mut Attempt> {
        self.sweep(now);
        if self.of.len() >= NODES && !self.of.contains_key(&name.node) {
            return None;
        }
        let networks = self.of.entry(name.node.clone()).or_default();
        if networks.len() >= NETWORKS && !networks.contains_key(&name.network) {
            let oldest = networks.iter().min_by_key(|(_, attempt)| attempt.last()).map(|(id, _)| id.clone());
            oldest.and_then(|oldest| networks.remove(&oldest));
        }
        Some(networks.entry(name.network.clone()).or_default())
    }

    /// Removes what is not shown any more, once in a while: it looks at everything.
    fn sweep(&mut self, now: SystemTime) {
        if self.swept.is_some_and(|swept| is_shown(swept, SHOWN, now)) {
            return;
        }
        self.swept = Some(now);
        self.of.retain(|_, networks| {
            networks.retain(|_, attempt| attempt.is_shown(now));
            !networks.is_empty()
        });
    }
}

impl Attempt {
    fn refusal(&self, now: SystemTime) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|refusal| is_shown(refusal.at, refusal.shown, now))
    }

    fn said(&self, now: SystemTime) -> Option<&Said> {
        self.said.as_ref().filter(|said| is_shown(said.at, SHOWN, now))
    }

    fn is_shown(&self, now: SystemTime) -> bool {
        self.refusal(now).is_some() || self.said(now).is_some()
    }

    /// The last sign of the node.
    fn last(&self) -> Option<SystemTime> {
        let (refused, said) = (self.refusal.as_ref().map(|of| of.at), self.said.as_ref().map(|of| of.at));
        refused.max(said)
    }
}

impl Refusal {
    /// Whether the node will be served without anybody doing anything.
    fn is_wait(&self) -> bool {
        self.code == Code::Unavailable && self.reason != Reason::FormerLife.as_str()
    }

    fn view(&self) -> v1::LeaseRefusal {
        v1::LeaseRefusal {
            code: reason::code_name(self.code),
            reason: self.reason.clone(),
            message: self.message.clone(),
            address: self.from.to_string(),
            since: Some(timestamp(self.since)),
            refuse_time: Some(timestamp(self.at)),
        }
    }
}

/// Whether something that was last so at a time is still shown. A clock that went back shows nothing of later
/// times: whoever still tries is there again in a moment.
pub(super) fn is_shown(at: SystemTime, shown: Duration, now: SystemTime) -> bool {
    now.duration_since(at).is_ok_and(|age| age <= shown)
}

#[cfg(test)]
mod tests {
    use loden_proto::reason::{Reason, status, status_retry};

    use super::*;

    const AT: SystemTime = SystemTime::UNIX_EPOCH;
    const SECOND: Duration = Duration::from_secs(1);

    fn name(node: &str, network: &str) -> LeaseName {
        LeaseName { network: network.parse().unwrap(), node: node.parse().unwrap() }
    }

    fn from() -> SocketAddr {
        "192.0.2.1:1".parse().unwrap()
    }

    fn full() -> Status {
        status(Code::ResourceExhausted, Reason::Exhausted, "no subnet is left")
    }

    fn settling() -> Status {
        status_retry(Code::Unavailable, Reason::Settling, "wait", 8 * SECOND)
    }

    fn view(attempts: &Attempts, node: &str, now: SystemTime) -> Vec<v1::NodeNetwork> {
        let mut networks = Vec::new();
        attempts.show(&node.parse().unwrap(), &mut networks, now);
        networks
    }

    #[test]
    fn the_last_refusal_is_shown_until_the_lease_is_given() {
        let mut attempts = Attempts::default();
        let blue = name("a", "blue");
        attempts.refused(&blue, &settling(), from(), AT);
        attempts.refused(&blue, &full(), from(), AT + SECOND);
        attempts.refused(&blue, &full(), from(), AT + 5 * SECOND);
        let shown = view(&attempts, "a", AT + 5 * SECOND);
        assert_eq!(
            shown[0].refusal,
            Some(v1::LeaseRefusal {
                code: "RESOURCE_EXHAUSTED".into(),
                reason: "EXHAUSTED".into(),
                message: "no subnet is left".into(),
                address: "192.0.2.1:1".into(),
                since: Some(timestamp(AT + SECOND)),
                refuse_time: Some(timestamp(AT + 5 * SECOND)),
            })
        );
        attempts.granted(&blue);
        assert!(attempts.of.is_empty());
    }

    #[test]
    fn who_does_not_try_any_more_is_forgotten_and_who_waits_is_not() {
        let mut attempts = Attempts::default();
        attempts.refused(&name("gone", "blue"), &full(), from(), AT);
        let adopting = status_retry(Code::Unavailable, Reason::Adopting, "adopting", 600 * SECOND);
        attempts.refused(&name("waits", "blue"), &adopting, from(), AT);
        attempts.said(&name("mute", "blue"), "no interface", AT);
        assert_eq!(attempts.unserved(AT), Unserved { refused: 2, waiting: 1 });
        assert_eq!(view(&attempts, "mute", AT + SHOWN)[0].not_ready_reason, "no interface");
        let later = AT + SHOWN + SECOND;
        assert_eq!(attempts.unserved(later), Unserved { refused: 0, waiting: 1 });
        assert!(view(&attempts, "gone", later).is_empty() && view(&attempts, "mute", later).is_empty());
        assert_eq!(attempts.nodes(later).map(ToString::to_string).collect::<Vec<_>>(), ["waits"]);
        let waited = AT + 750 * SECOND + SHOWN;
        assert_eq!(attempts.unserved(waited), Unserved { refused: 0, waiting: 1 });
        assert_eq!(attempts.unserved(waited + SECOND), Unserved::default());
        // And the memory is free as soon as somebody else is refused.
        attempts.refused(&name("new", "blue"), &full(), from(), waited + SECOND);
        assert_eq!(attempts.of.len(), 1);
    }

    #[test]
    fn a_node_waits_only_if_it_waits_everywhere() {
        let mut attempts = Attempts::default();
        attempts.refused(&name("a", "blue"), &settling(), from(), AT);
        assert_eq!(attempts.unserved(AT), Unserved { refused: 0, waiting: 1 });
        attempts.refused(&name("a", "red"), &full(), from(), AT);
        assert_eq!(attempts.unserved(AT), Unserved { refused: 1, waiting: 0 });
    }

    #[test]
    fn what_is_kept_is_bounded_in_networks_and_text() {
        let mut attempts = Attempts::default();
        let long = status(Code::InvalidArgument, Reason::InvalidField, "ä".repeat(10_000));
        for number in 0..NETWORKS + 5 {
            attempts.refused(
                &name("a", &format!("n{number:02}")),
                &long,
                from(),
                AT + SECOND.mul_f64(number as f64 / 10.0),
            );
        }
        let shown = view(&attempts, "a", AT + 3 * SECOND);
        assert_eq!((shown.len(), shown[0].network.as_str()), (NETWORKS, "networks/n05"));
        assert!(shown.iter().all(|of| of.refusal.as_ref().unwrap().message.chars().count() == 256));
    }

    #[test]
    fn a_network_with_a_lease_keeps_what_is_known_of_it() {
        let mut attempts = Attempts::default();
        attempts.refused(&name("a", "blue"), &full(), from(), AT);
        attempts.said(&name("a", "blue"), "of before", AT);
        let leased = v1::NodeNetwork {
            network: "networks/blue".into(),
            subnets: vec!["10.1.1.0/24".into()],
            ..Default::default()
        };
        let mut networks = vec![leased.clone()];
        attempts.show(&"a".parse().unwrap(), &mut networks, AT);
        assert!(networks[0].refusal.is_some());
        networks[0].refusal = None;
        assert_eq!(networks, [leased]);
    }
}
